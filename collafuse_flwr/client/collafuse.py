"""The client side of CollaFuse: release each image at the cut, and train the low-noise denoiser."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import cast

import torch

from collafuse_flwr.client.base import Handler
from collafuse_flwr.client.diffusion_base import DiffusionClient, RoundResult
from collafuse_flwr.data.conditioning import conditioning_labels
from collafuse_flwr.data.images import normalize
from collafuse_flwr.diffusion.unet import import_diffusers
from collafuse_flwr.privacy.ledger import Release
from collafuse_flwr.privacy.release import (
    Upload,
    UploadDtype,
    encode,
    image_keys,
    noise_draw_ids,
    release,
    upload_order,
)
from collafuse_flwr.setup.privacy import clip, clipped_to
from collafuse_flwr.wire.codec import Weights
from collafuse_flwr.wire.collafuse import SampleHandoff, TrainReply, TrainRequest
from collafuse_flwr.wire.validation import check_finite


class CollaFuseClient(DiffusionClient):
    """A client of CollaFuse (arXiv 2406.14429), whose images leave it noised and whose denoiser does not."""

    def handlers(self) -> Mapping[str, Handler]:
        """Training, and finishing samples."""
        return {"train": (TrainRequest, self.on_train), "evaluate": (SampleHandoff, self._evaluate)}

    def on_train(self, request: TrainRequest) -> TrainReply:
        """Upload if the request says so, and train."""
        result, upload = self._round(request)
        return TrainReply(metrics=result.metrics, upload=upload)

    def _round(self, request: TrainRequest, weights: Weights | None = None) -> tuple[RoundResult, Upload | None]:
        """One round; `weights`, if given, replace those of the denoiser.

        Raises:
            UserError: a setting does not fit this client's images, or the backbone is not finite.
        """
        import_diffusers()
        began = time.perf_counter()
        backbone = dict(request.backbone.to_torch_state_dict()) if request.backbone else None
        check_finite("backbone", backbone or {})
        state, tensors = self.store.load(before=request.round)
        planned = self._planned(request.round) if request.want_upload else None
        counts = request.round, request.num_rounds
        work = self._plan(state, bool(tensors), *counts, [] if planned is None else [planned])
        upload = self._release(planned, request.round) if planned is not None else None
        result = self._train_round(*counts, work, tensors, began, backbone=backbone, weights=weights)
        return result, upload

    def _release(self, planned: Release, round_: int) -> Upload:
        """Noise the images for upload: the same draws every time (`fixed`), or draws numbered by the round."""
        upload, images = self.config.upload, self.data.train
        draws, secret = noise_draw_ids(upload, round_), self._secret()
        x_0 = clip(self.config, normalize(images.images))
        alpha_bar = float(self.setup.schedule.alpha_bar[self.cut])
        keys = [bytes.fromhex(key) for key in planned.keys]
        x_k = release(alpha_bar, x_0, keys, secret, draws, planned.clip_norm)
        order = upload_order(secret, draws, len(images))
        labels = conditioning_labels(self.config.data.conditioning, images) if self.config.shares_labels() else None
        rows = None if labels is None else torch.cat([labels] * len(draws))[order]
        self.ledger.add_release(planned, round=round_, cut_step=self.cut, labels=labels is not None)
        return encode(x_k[order], cast(UploadDtype, upload.dtype), rows)

    def _planned(self, round_: int) -> Release | None:
        """What an upload in a round releases; None where there is none, be it by `upload.max_releases`.

        The client decides, whatever the server requests.

        Raises:
            PolicyError: it is beyond the owner's limits.
        """
        if self.cut == self.setup.schedule.timesteps:
            return None
        images, most = self.data.train.images, self.config.upload.max_releases
        planned = Release(
            keys=tuple(key.hex() for key in image_keys(self._secret(), images)),
            draws=tuple(noise_draw_ids(self.config.upload, round_)),
            snr=float(self.setup.schedule.snr()[self.cut]),
            clip_norm=clipped_to(self.config, images[0].numel()),
            shape=tuple(images[0].shape),
            enlargement=self.data.train.enlargement(),
        )
        after = self.ledger.exposure(planned)
        if most and after.releases > most:
            return None
        if self.policy is not None:
            self.policy.check_release(planned.native_snr, self.cut / self.setup.schedule.timesteps, after)
        return planned
