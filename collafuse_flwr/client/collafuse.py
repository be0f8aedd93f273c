"""The client side of CollaFuse: release each image at the cut, and train the low-noise denoiser."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch

from collafuse_flwr.client.adaptive_cut import AdaptiveCut, cost
from collafuse_flwr.client.base import Handler
from collafuse_flwr.client.diffusion_base import DiffusionClient, RoundResult
from collafuse_flwr.client.policy import BEYOND, Policy
from collafuse_flwr.client.state_store import ClientState, ClientStore
from collafuse_flwr.client.training_plan import RoundPlan
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import PolicyError, SettingError
from collafuse_flwr.data.conditioning import conditioning_labels
from collafuse_flwr.data.federated import ClientData
from collafuse_flwr.data.images import normalize
from collafuse_flwr.diffusion.train import TrainResult, TrainState
from collafuse_flwr.diffusion.unet import import_diffusers
from collafuse_flwr.privacy.accounting import release_mu
from collafuse_flwr.privacy.exposure import Exposure
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
from collafuse_flwr.wire.collafuse import CutReport, SampleHandoff, TrainReply, TrainRequest
from collafuse_flwr.wire.validation import received_start

#: Of a round: the request and its reply.
MESSAGES = 2


class CollaFuseClient(DiffusionClient):
    """A client of CollaFuse (arXiv 2406.14429), whose images leave it noised and whose denoiser does not."""

    def __init__(self, client: int, config: Config, data: ClientData, store: ClientStore, **owner: Any) -> None:
        super().__init__(client, config, data, store, **owner)
        #: Where it moves its cut; what a round of that gained, and the bytes that it took.
        self.adaptive: AdaptiveCut | None = None
        self.gain: float | None = None
        self.num_bytes = 0
        if not config.recuts():
            return
        if self.seeded_secret and not config.client_devices():
            allowed = "the clients' devices in a simulation when `cut.policy` is adaptive"
            raise SettingError("devices.profiles", "", allowed)
        if self.policy is not None:
            self.cuts = self._within(self.policy)
            self.cut = self.cuts[-1]

    def handlers(self) -> Mapping[str, Handler]:
        """Training, and finishing samples."""
        return {"train": (TrainRequest, self.on_train), "evaluate": (SampleHandoff, self._evaluate)}

    def on_train(self, request: TrainRequest) -> TrainReply:
        """Upload if the request says so, or a smaller cut needs it, and train."""
        result, upload = self._round(request)
        recut = None if self.adaptive is None else CutReport(self.cut)
        return TrainReply(metrics=result.metrics, upload=upload, recut=recut)

    def _round(self, request: TrainRequest, weights: Weights | None = None) -> tuple[RoundResult, Upload | None]:
        """One round; `weights`, if given, replace those of the denoiser.

        Raises:
            UserError: a setting does not fit this client's images, or the backbone is not finite.
        """
        import_diffusers()
        began = time.perf_counter()
        backbone = received_start(request.backbone)
        state, tensors = self.store.load(before=request.round)
        if self.config.recuts():
            self._move(state)
        # What the server has of a smaller cut tells it all that this one would.
        less_noisy = request.held_cut is not None and self.cut < request.held_cut
        planned = self._planned(request.round) if request.want_upload or less_noisy else None
        counts = request.round, request.num_rounds
        work = self._plan(state, bool(tensors), *counts, [] if planned is None else [planned])
        upload = self._release(planned, request.round) if planned is not None else None
        received = sum(value.nbytes for value in (backbone or {}).values())
        self.num_bytes = received + (0 if upload is None else upload.nbytes)
        result = self._train_round(*counts, work, tensors, began, backbone=backbone, weights=weights)
        return result, upload

    def _within(self, policy: Policy) -> tuple[int, ...]:
        """Those of its cuts at which its owner lets a release leave, were it the only one.

        Raises:
            PolicyError: not even at the largest.
        """
        allowed: list[int] = []
        for cut in reversed(self.cuts):
            own = self._release_at(cut, ())
            copies = len(own.draws)
            mu = release_mu(own.snr, own.norm, releases=copies)
            alone = Exposure(copies, own.native_snr * copies, mu, (), unbounded=False)
            try:
                policy.check_release(own.native_snr, cut / self.setup.schedule.timesteps, alone)
            except PolicyError:
                if not allowed:
                    raise
                break
            allowed.insert(0, cut)
        return tuple(allowed)

    def _move(self, state: ClientState) -> None:
        """Cut where the rewards of earlier rounds say; that is a number about the held-out images.

        Raises:
            PolicyError: its owner does not let it leave, or not any more.
        """
        self.adaptive = AdaptiveCut.of(self.config.cut, self.cuts, state.adaptation)
        self.cut = self.adaptive.cut
        self._note_step("cut", self.cut)

    def _train(self, state: TrainState, round_: int, num_rounds: int, work: RoundPlan) -> TrainResult:
        if self.adaptive is None:
            return super()._train(state, round_, num_rounds, work)
        before, began = self._averaged_loss(state), time.perf_counter()
        trained = super()._train(state, round_, num_rounds, work)
        self.training_seconds = time.perf_counter() - began
        self.gain = self.cut / self.setup.schedule.timesteps * (before - self._averaged_loss(state))
        return trained

    def _averaged_loss(self, state: TrainState) -> float:
        network = self._network()
        network.load_state_dict(state.ema_state_dict())
        return self._held_out_loss(network)

    def _closed(self, state: ClientState, flops: int) -> ClientState:
        """With the reward of the round, if it trained."""
        if self.adaptive is None:
            return state
        adaptive = self.adaptive
        if self.gain is not None:
            seconds = self._seconds(flops)
            adaptive = adaptive.after(self.gain / cost(self.config.cut, seconds, self.num_bytes))
        return replace(state, adaptation=adaptive.state())

    def _seconds(self, flops: int) -> float:
        """What a round takes this client: on its device by the settings in a simulation, by the clock otherwise."""
        if not self.seeded_secret:
            return self.training_seconds
        device = self.config.client_devices()[self.client]
        return device.seconds(flops, self.num_bytes) + MESSAGES * self.config.devices.message_seconds

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
        self.ledger.add_release(planned, round=round_, cut_step=self.cut, labels=labels is not None, dataset=self._kind)
        if self.policy is not None:
            # Here, and not with an evaluation alone, which no operator needs to request.
            self.ledger.add("measured", bits=self._bits(self.ledger.exposure()))
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
        keys = tuple(key.hex() for key in image_keys(self._secret(), images))
        planned = self._release_at(self.cut, keys, round_)
        after = self.ledger.exposure(planned)
        if most and after.releases > most:
            return None
        if self.policy is not None:
            self._check_kind(self.policy)
            self.policy.check_release(planned.native_snr, self.cut / self.setup.schedule.timesteps, after)
        return planned

    def _check_kind(self, policy: Policy) -> None:
        """Refuse to release images that were released as another kind of data set, unless the owner lists the kinds.

        Two kinds may read the same file as different pixels, which would have noise of their own; so have latents.

        Raises:
            PolicyError: they were.
        """
        if not policy.datasets and self.ledger.released_as() - {self._kind}:
            raise PolicyError(f"{BEYOND}: `datasets` does not list `dataset` = {self._kind}")

    @property
    def _kind(self) -> str:
        """As what images are released: their kind of data set, and the codec whose latents these are."""
        codec, name = self.data.train.codec, self.config.data.name
        return name if codec is None else f"{name} in the latents of {codec.digest}"

    def _release_at(self, cut: int, keys: tuple[str, ...], round_: int = 1) -> Release:
        """The release of the images with these keys at a cut."""
        images, codec = self.data.train.images, self.data.train.codec
        return Release(
            keys=keys,
            draws=tuple(noise_draw_ids(self.config.upload, round_)),
            snr=float(self.setup.schedule.snr()[cut]),
            clip_norm=clipped_to(self.config, images[0].numel()),
            shape=tuple(images[0].shape),
            enlargement=self.data.train.enlargement(),
            codec="" if codec is None else codec.digest,
        )
