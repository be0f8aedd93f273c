"""The client side of CollaFuse: release each image at the cut, train the low-noise denoiser, finish samples."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from flwr.app import RecordDict
from torch import Tensor, nn

from collafuse_flwr.client.effort import Work, plan_work
from collafuse_flwr.client.labels import Told, told_by
from collafuse_flwr.client.store import ClientStore, Ledger
from collafuse_flwr.config import ModelConfig
from collafuse_flwr.data import ClientData, ImageSet, ImageSource, labels_of, num_attributes, to_model_space
from collafuse_flwr.diffusion import (
    DPSGD,
    Range,
    TrainState,
    cosine_rate,
    denoising_loss,
    stratified_steps,
    train,
    train_privately,
)
from collafuse_flwr.diffusion import Progress as Trained
from collafuse_flwr.evaluation import PixelFeatures, forward_flops, kernel_distance, sampling_flops, training_flops
from collafuse_flwr.networks import import_diffusers, save_network
from collafuse_flwr.privacy.clipping import clip
from collafuse_flwr.privacy.disclosure import covariance_eigenvalues, gaussian_bits
from collafuse_flwr.privacy.release import Upload, UploadDtype, copies_of, encode, release
from collafuse_flwr.process import Process
from collafuse_flwr.rng import derive_seed, stream
from collafuse_flwr.wire import (
    EvaluateReply,
    HandOver,
    Hello,
    TrainNumbers,
    TrainReply,
    Weights,
    pack_numbers,
    pack_train_reply,
    unpack_hand_over,
    unpack_train_request,
)

#: Counted once per process: the same for all clients with the same network and images.
_FORWARD_FLOPS: dict[tuple[ModelConfig, bool, int, int, int, int], int] = {}
#: Draws of (t, noise) for each held-out image when the held-out loss is measured.
HELD_OUT_DRAWS = 8


@dataclass(frozen=True)
class Outcome:
    """What a round came to on the client: numbers, the denoiser as it is now (None: untouched), and the upload."""

    numbers: TrainNumbers
    state: TrainState | None
    upload: Upload | None


@dataclass(frozen=True)
class CollaFuseClient:
    """One client for the length of one message; all that lasts is in its store."""

    client: int
    process: Process
    data: ClientData
    store: ClientStore
    cut: int
    seeded_secret: bool

    def hello(self) -> Hello:
        """Who this client is, where it cuts, and the shape of its images."""
        timesteps, count = self.process.schedule.timesteps, len(self.data.train)
        return Hello(self.client, self.cut, timesteps, count, *self._shape())

    def on_train(self, content: RecordDict) -> RecordDict:
        """Answer a message of type train."""
        request = unpack_train_request(content)
        outcome = self._round(request.round, request.num_rounds, request.want_upload, request.weights())
        return pack_train_reply(TrainReply(outcome.numbers, outcome.upload))

    def on_evaluate(self, content: RecordDict) -> RecordDict:
        """Answer a message of type evaluate."""
        return pack_numbers(self._evaluate(unpack_hand_over(content)))

    def _round(
        self,
        round_: int,
        num_rounds: int,
        want_upload: bool = False,
        backbone: Weights | None = None,
        weights: Weights | None = None,
    ) -> Outcome:
        """One round: upload if asked to, then train t = 1..k on the client's own images.

        `backbone` is what a fresh denoiser starts from, `weights` what it goes on from in any case.

        Raises:
            UserError: a setting does not fit this client's images.
        """
        import_diffusers()
        began = time.perf_counter()
        ledger, tensors = self.store.load(before=round_)
        upload = self._release(round_) if want_upload and self._may_release(ledger) else None
        work = plan_work(self.process.config, ledger, round_, num_rounds, len(self.data.train), self.cut)
        trained, flops, state = Trained(0.0, 0, 0), 0, None
        if work.steps or weights:
            state = self._state(tensors, backbone)
            state.network.load_state_dict(weights or {}, strict=False)
            if work.steps:
                trained = self._train(state, round_, num_rounds, work)
                flops = training_flops(self._forward_flops(state.network), trained.images)
            tensors = state.tensors()
            if work.steps and self.process.config.train.dp_noise_multiplier:
                self.store.count_private(tensors, work.steps)
        releases = self._releases(ledger, uploaded=upload is not None)
        self.store.save(replace(work.ledger, releases=releases), tensors)
        seconds = time.perf_counter() - began
        return Outcome(TrainNumbers(trained.loss, trained.steps, trained.images, seconds, flops), state, upload)

    def _evaluate(self, hand_over: HandOver, averaged: Weights | None = None) -> EvaluateReply:
        """Finish samples with the averaged denoiser, keep them, and compare them to held-out images.

        `averaged` takes the place of the client's own averaged weights wherever it has them.
        """
        import_diffusers()
        began = time.perf_counter()
        ledger, tensors = self.store.load(before=hand_over.round + 1)
        samples, told, flops = hand_over.x_k, self._told(hand_over), 0
        held_out_loss = 0.0
        if self.cut:
            network = self._averaged(tensors)
            network.load_state_dict(averaged or {}, strict=False)
            grid = self.process.client_grid(self.cut)
            guidance = self.process.config.evaluation.guidance
            name = (self.process.config.run.seed, "finish", self.client, hand_over.round)
            samples = self.process.reverse(network, samples, grid, told.labels, name, guidance)
            held_out_loss = self._held_out_loss(network)
            calls = self.process.calls(grid, told.labels is not None)
            flops = sampling_flops(self._forward_flops(network), calls, 1)
            save_network(
                network, self.store.folder / "denoiser", self.process.schedule, self.process.objective.prediction
            )
        samples = samples.clamp(-1, 1)
        self.store.save_samples(samples, told.classes, told.attributes, self.data.train.facts.attribute_names)
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
        held_out = to_model_space(self.data.held_out.images)
        if min(len(held_out), len(samples)) < 2:
            return 0.0
        return kernel_distance(held_out, samples, PixelFeatures(), seed=self._seed("kernel")).mean

    def _seed(self, purpose: str) -> int:
        return derive_seed(self.process.config.run.seed, purpose, self.client)

    def _release(self, round_: int) -> Upload:
        """Noise the images for upload: the same fixed copies every time (`once`), or copies numbered by the round."""
        split = self.process.config.split
        copies = copies_of(split, round_)
        images = self.data.train
        x_0 = clip(self.process.config, to_model_space(images.images))
        x_k = release(self.process.schedule, self.cut, x_0, self._secret(), copies)
        labels = labels_of(self.process.config, images) if self.process.config.shares_labels() else None
        rows = None if labels is None else torch.cat([labels] * len(copies))
        return encode(x_k, cast(UploadDtype, split.upload_dtype), rows)

    def _secret(self) -> bytes:
        return self.store.secret(self.process.config.run.seed if self.seeded_secret else None, self.client)

    def _may_release(self, ledger: Ledger) -> bool:
        """Whether an upload keeps to `max_releases`; the client decides, whatever the server asks for."""
        if self.cut == self.process.schedule.timesteps:
            return False
        most = self.process.config.split.max_releases
        return not most or self._releases(ledger, uploaded=True) <= most

    def _releases(self, ledger: Ledger, *, uploaded: bool) -> int:
        """Distinct noised copies of each image that have left so far: `once` repeats itself, the others do not."""
        split = self.process.config.split
        if not uploaded:
            return ledger.releases
        return split.copies_per_image if split.upload == "once" else ledger.releases + split.copies_per_image

    def _bits(self, releases: int) -> float:
        if not releases:
            return 0.0
        snr = float(self.process.schedule.snr()[self.cut])
        x_0 = clip(self.process.config, to_model_space(self.data.train.images))
        return gaussian_bits(snr, covariance_eigenvalues(x_0), releases=releases)

    def _shape(self) -> tuple[int, int, int, int]:
        """Channels and side of the images, classes, and attributes that networks are conditioned on."""
        images = self.data.train
        _, channels, size, _ = images.images.shape
        return channels, size, images.num_classes, num_attributes(self.process.config, images)

    def _network(self) -> nn.Module:
        return self.process.denoiser(self.client, *self._shape())

    def _state(self, tensors: dict[str, Tensor], backbone: dict[str, Tensor] | None) -> TrainState:
        state = TrainState(self._network(), self.process.config.train.ema_decay)
        if tensors:
            state.load(tensors)
        elif backbone is not None:
            state.start_from(backbone)
        return state

    def _averaged(self, tensors: dict[str, Tensor]) -> nn.Module:
        state = self._state(tensors, None)
        state.network.load_state_dict(state.averaged())
        return state.network

    def _train(self, state: TrainState, round_: int, num_rounds: int, work: Work) -> Trained:
        config, device = self.process.config, self.process.runtime.device
        left = num_rounds - work.ledger.first_round + 1
        done = round_ - work.ledger.first_round

        def learning_rate(fraction: float) -> float:
            if config.train.lr_schedule == "constant":
                return config.train.learning_rate
            return cosine_rate(config.train.learning_rate, (done + fraction) / left)

        given = (state, self.process.denoise(state.network), self._source(self.data.train))
        settings: dict[str, Any] = {
            "schedule": self.process.schedule,
            "objective": self.process.objective,
            "batch_size": config.train.client_batch_size,
            "num_steps": work.steps,
            "learning_rate": learning_rate,
            "penalty": state.proximal(config.federation.proximal_mu) if config.run.strategy == "fedprox" else None,
            "label_dropout": config.train.label_dropout,
            "flip": config.train.flip,
        }
        if config.train.dp_noise_multiplier:
            dp = DPSGD(config.train.dp_max_grad_norm, config.train.dp_noise_multiplier, self._secret())
            return train_privately(*given, dp=dp, last=self.cut, **settings)
        generator = stream(config.run.seed, "client", self.client, "round", round_, device=device)
        return train(*given, steps_range=Range(self.cut), generator=generator, **settings)

    def _source(self, images: ImageSet) -> ImageSource:
        device = self.process.runtime.device
        labels = labels_of(self.process.config, images)
        return ImageSource(to_model_space(images.images).to(device), None if labels is None else labels.to(device))

    def _told(self, hand_over: HandOver) -> Told:
        generator = stream(self.process.config.run.seed, "labels", self.client, hand_over.round)
        return told_by(self.process.config, self.process.schedule, self.cut, self.data.train, hand_over, generator)

    @torch.no_grad()
    def _held_out_loss(self, network: nn.Module) -> float:
        """The denoising loss on the held-out images over t = 1..k, always with the same t and noise."""
        generator = stream(self._seed("held out"), device=self.process.runtime.device)
        source = self._source(self.data.held_out)
        rows = torch.arange(len(source), device=generator.device).repeat(HELD_OUT_DRAWS)
        x, start, labels = source.batch(rows)
        t = stratified_steps(start + 1, self.cut, generator)
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        denoise = self.process.denoise(network.eval())
        process = self.process
        return denoising_loss(process.schedule, process.objective, denoise, x, start, t, noise, labels).item()

    def _forward_flops(self, network: nn.Module) -> int:
        config, shape = self.process.config, self._shape()
        key = (config.model, bool(config.train.label_dropout), *shape)
        if key not in _FORWARD_FLOPS:
            first = torch.zeros(1, dtype=torch.int64)
            x, start, labels = self._source(self.data.train.subset(first)).batch(first.to(self.process.runtime.device))
            _FORWARD_FLOPS[key] = forward_flops(self.process.denoise(network.eval()), x, start + 1, labels)
        return _FORWARD_FLOPS[key]
