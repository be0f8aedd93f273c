"""The client side of CollaFuse: release each image at the cut, train the low-noise denoiser, finish samples."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from flwr.app import RecordDict
from torch import Tensor, nn

from collafuse_flwr.client.sample_labels import SampleConditioning, condition_samples
from collafuse_flwr.client.state_store import ClientState, ClientStore
from collafuse_flwr.client.training_plan import RoundPlan, plan_round
from collafuse_flwr.config.sections import ModelConfig
from collafuse_flwr.core.rng import derive_seed, named_generator
from collafuse_flwr.data.conditioning import conditioning_labels, num_attributes
from collafuse_flwr.data.federated import ClientData
from collafuse_flwr.data.images import ImageSet, ImageSource, normalize
from collafuse_flwr.diffusion.dp_sgd import DpSgdConfig, train_dp_sgd
from collafuse_flwr.diffusion.loss import denoising_loss, stratified_steps
from collafuse_flwr.diffusion.setup import DiffusionSetup
from collafuse_flwr.diffusion.train import TimestepRange, TrainState, cosine_rate, train
from collafuse_flwr.diffusion.train import TrainResult as Trained
from collafuse_flwr.diffusion.unet import import_diffusers, save_network
from collafuse_flwr.evaluation.cost import forward_flops, sampling_flops, training_flops
from collafuse_flwr.evaluation.distances import kernel_distance
from collafuse_flwr.evaluation.features import PixelFeatures
from collafuse_flwr.privacy.clipping import clip
from collafuse_flwr.privacy.leakage_bounds import covariance_eigenvalues, gaussian_bits
from collafuse_flwr.privacy.release import Upload, UploadDtype, encode, noise_draw_ids, release
from collafuse_flwr.wire.codec import pack_numbers
from collafuse_flwr.wire.collafuse import (
    ClientInfo,
    EvaluateReply,
    SampleHandoff,
    TrainMetrics,
    TrainReply,
    pack_train_reply,
    unpack_handoff,
    unpack_train_request,
)
from collafuse_flwr.wire.fedavg import Weights

#: Counted once per process: the same for all clients with the same network and images.
_FORWARD_FLOPS: dict[tuple[ModelConfig, bool, int, int, int, int], int] = {}
#: Draws of (t, noise) for each held-out image when the held-out loss is measured.
HELD_OUT_DRAWS = 8


@dataclass(frozen=True)
class RoundResult:
    """What a round came to on the client: numbers, the denoiser as it is now (None: untouched), and the upload."""

    numbers: TrainMetrics
    state: TrainState | None
    upload: Upload | None


@dataclass(frozen=True)
class CollaFuseClient:
    """One client for the length of one message; all that lasts is in its store."""

    client: int
    setup: DiffusionSetup
    data: ClientData
    store: ClientStore
    cut: int
    seeded_secret: bool

    def client_info(self) -> ClientInfo:
        """Who this client is, where it cuts, and the shape of its images."""
        timesteps, count = self.setup.schedule.timesteps, len(self.data.train)
        return ClientInfo(self.client, self.cut, timesteps, count, *self._shape())

    def on_train(self, content: RecordDict) -> RecordDict:
        """Answer a message of type train."""
        request = unpack_train_request(content)
        result = self._round(request.round, request.num_rounds, request.want_upload, request.weights())
        return pack_train_reply(TrainReply(result.numbers, result.upload))

    def on_evaluate(self, content: RecordDict) -> RecordDict:
        """Answer a message of type evaluate."""
        return pack_numbers(self._evaluate(unpack_handoff(content)))

    def _round(
        self,
        round_: int,
        num_rounds: int,
        want_upload: bool = False,
        backbone: Weights | None = None,
        weights: Weights | None = None,
    ) -> RoundResult:
        """One round: upload if asked to, then train t = 1..k on the client's own images.

        `backbone` is what a fresh denoiser starts from, `weights` what it goes on from in any case.

        Raises:
            UserError: a setting does not fit this client's images.
        """
        import_diffusers()
        began = time.perf_counter()
        ledger, tensors = self.store.load(before=round_)
        upload = self._release(round_) if want_upload and self._may_release(ledger) else None
        work = plan_round(self.setup.config, ledger, round_, num_rounds, len(self.data.train), self.cut)
        trained, flops, state = Trained(0.0, 0, 0), 0, None
        if work.steps or weights:
            state = self._state(tensors, backbone)
            state.network.load_state_dict(weights or {}, strict=False)
            if work.steps:
                trained = self._train(state, round_, num_rounds, work)
                flops = training_flops(self._forward_flops(state.network), trained.images)
            tensors = state.state_dict()
            if work.steps and self.setup.config.train.dp_noise_multiplier:
                self.store.count_private(tensors, work.steps)
        releases = self._releases(ledger, uploaded=upload is not None)
        self.store.save(replace(work.ledger, releases=releases), tensors)
        seconds = time.perf_counter() - began
        return RoundResult(TrainMetrics(trained.loss, trained.steps, trained.images, seconds, flops), state, upload)

    def _evaluate(self, handoff: SampleHandoff, averaged: Weights | None = None) -> EvaluateReply:
        """Finish samples with the averaged denoiser, keep them, and compare them to held-out images.

        `averaged` takes the place of the client's own averaged weights wherever it has them.
        """
        import_diffusers()
        began = time.perf_counter()
        ledger, tensors = self.store.load(before=handoff.round + 1)
        samples, told, flops = handoff.x_k, self._told(handoff), 0
        held_out_loss = 0.0
        if self.cut:
            network = self._averaged(tensors)
            network.load_state_dict(averaged or {}, strict=False)
            grid = self.setup.client_grid(self.cut)
            guidance = self.setup.config.evaluation.guidance
            name = (self.setup.config.run.seed, "finish", self.client, handoff.round)
            samples = self.setup.sample(network, samples, grid, told.labels, name, guidance)
            held_out_loss = self._held_out_loss(network)
            calls = self.setup.num_function_evaluations(grid, told.labels is not None)
            flops = sampling_flops(self._forward_flops(network), calls, 1)
            save_network(network, self.store.folder / "denoiser", self.setup.schedule, self.setup.objective.prediction)
        samples = samples.clamp(-1, 1)
        self.store.save_samples(samples, told.classes, told.attributes, self.data.train.metadata.attribute_names)
        return EvaluateReply(
            num_samples=len(samples),
            held_out_loss=held_out_loss,
            kernel_distance=self._distance(samples),
            seconds=time.perf_counter() - began,
            flops_per_image=flops,
            releases=ledger.releases,
            bits=self._bits(ledger.releases),
            dp_steps=self.store.private_steps(),
        )

    def _distance(self, samples: Tensor) -> float:
        """Kernel distance of pixels between samples and held-out images; 0 if either is a single image."""
        held_out = normalize(self.data.held_out.images)
        if min(len(held_out), len(samples)) < 2:
            return 0.0
        return kernel_distance(held_out, samples, PixelFeatures(), seed=self._seed("kernel")).mean

    def _seed(self, purpose: str) -> int:
        return derive_seed(self.setup.config.run.seed, purpose, self.client)

    def _release(self, round_: int) -> Upload:
        """Noise the images for upload: the same fixed copies every time (`once`), or copies numbered by the round."""
        split = self.setup.config.split
        copies = noise_draw_ids(split, round_)
        images = self.data.train
        x_0 = clip(self.setup.config, normalize(images.images))
        x_k = release(self.setup.schedule, self.cut, x_0, self._secret(), copies)
        labels = conditioning_labels(self.setup.config, images) if self.setup.config.shares_labels() else None
        rows = None if labels is None else torch.cat([labels] * len(copies))
        return encode(x_k, cast(UploadDtype, split.upload_dtype), rows)

    def _secret(self) -> bytes:
        return self.store.secret(self.setup.config.run.seed if self.seeded_secret else None, self.client)

    def _may_release(self, ledger: ClientState) -> bool:
        """Whether an upload keeps to `max_releases`; the client decides, whatever the server asks for."""
        if self.cut == self.setup.schedule.timesteps:
            return False
        most = self.setup.config.split.max_releases
        return not most or self._releases(ledger, uploaded=True) <= most

    def _releases(self, ledger: ClientState, *, uploaded: bool) -> int:
        """Distinct noised copies of each image that have left so far: `once` repeats itself, the others do not."""
        split = self.setup.config.split
        if not uploaded:
            return ledger.releases
        return split.copies_per_image if split.upload == "once" else ledger.releases + split.copies_per_image

    def _bits(self, releases: int) -> float:
        if not releases:
            return 0.0
        snr = float(self.setup.schedule.snr()[self.cut])
        x_0 = clip(self.setup.config, normalize(self.data.train.images))
        return gaussian_bits(snr, covariance_eigenvalues(x_0), releases=releases)

    def _shape(self) -> tuple[int, int, int, int]:
        """Channels and side of the images, classes, and attributes that networks are conditioned on."""
        images = self.data.train
        _, channels, size, _ = images.images.shape
        return channels, size, images.num_classes, num_attributes(self.setup.config, images)

    def _network(self) -> nn.Module:
        return self.setup.denoiser(self.client, *self._shape())

    def _state(self, tensors: dict[str, Tensor], backbone: dict[str, Tensor] | None) -> TrainState:
        state = TrainState(self._network(), self.setup.config.train.ema_decay)
        if tensors:
            state.load(tensors)
        elif backbone is not None:
            state.init_from(backbone)
        return state

    def _averaged(self, tensors: dict[str, Tensor]) -> nn.Module:
        state = self._state(tensors, None)
        state.network.load_state_dict(state.ema_state_dict())
        return state.network

    def _train(self, state: TrainState, round_: int, num_rounds: int, work: RoundPlan) -> Trained:
        config, device = self.setup.config, self.setup.runtime.device
        left = num_rounds - work.ledger.first_round + 1
        done = round_ - work.ledger.first_round

        def learning_rate(fraction: float) -> float:
            if config.train.lr_schedule == "constant":
                return config.train.learning_rate
            return cosine_rate(config.train.learning_rate, (done + fraction) / left)

        given = (state, self.setup.denoise(state.network), self._source(self.data.train))
        settings: dict[str, Any] = {
            "schedule": self.setup.schedule,
            "objective": self.setup.objective,
            "batch_size": config.train.client_batch_size,
            "num_steps": work.steps,
            "learning_rate": learning_rate,
            "penalty": state.proximal(config.federation.proximal_mu) if config.run.strategy == "fedprox" else None,
            "label_dropout": config.train.label_dropout,
            "flip": config.train.flip,
        }
        if config.train.dp_noise_multiplier:
            dp = DpSgdConfig(config.train.dp_max_grad_norm, config.train.dp_noise_multiplier, self._secret())
            return train_dp_sgd(*given, dp=dp, last=self.cut, **settings)
        generator = named_generator(config.run.seed, "client", self.client, "round", round_, device=device)
        return train(*given, steps_range=TimestepRange(self.cut), generator=generator, **settings)

    def _source(self, images: ImageSet) -> ImageSource:
        device = self.setup.runtime.device
        labels = conditioning_labels(self.setup.config, images)
        return ImageSource(normalize(images.images).to(device), None if labels is None else labels.to(device))

    def _told(self, handoff: SampleHandoff) -> SampleConditioning:
        generator = named_generator(self.setup.config.run.seed, "labels", self.client, handoff.round)
        return condition_samples(self.setup.config, self.setup.schedule, self.cut, self.data.train, handoff, generator)

    @torch.no_grad()
    def _held_out_loss(self, network: nn.Module) -> float:
        """The denoising loss on the held-out images over t = 1..k, always with the same t and noise."""
        generator = named_generator(self._seed("held out"), device=self.setup.runtime.device)
        source = self._source(self.data.held_out)
        rows = torch.arange(len(source), device=generator.device).repeat(HELD_OUT_DRAWS)
        x, start, labels = source.batch(rows)
        t = stratified_steps(start + 1, self.cut, generator)
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        denoise = self.setup.denoise(network.eval())
        setup = self.setup
        return denoising_loss(setup.schedule, setup.objective, denoise, x, start, t, noise, labels).item()

    def _forward_flops(self, network: nn.Module) -> int:
        config, shape = self.setup.config, self._shape()
        key = (config.model, bool(config.train.label_dropout), *shape)
        if key not in _FORWARD_FLOPS:
            first = torch.zeros(1, dtype=torch.int64)
            x, start, labels = self._source(self.data.train.subset(first)).batch(first.to(self.setup.runtime.device))
            _FORWARD_FLOPS[key] = forward_flops(self.setup.denoise(network.eval()), x, start + 1, labels)
        return _FORWARD_FLOPS[key]
