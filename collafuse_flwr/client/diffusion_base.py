"""What all clients with a denoiser do: train it on steps 1..k, and finish samples with its averaged weights."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from collafuse_flwr.client.base import BaseClient
from collafuse_flwr.client.cut_policies import CutContext, allowed_cuts
from collafuse_flwr.client.denoiser_cost import DenoiserCost, denoiser_cost
from collafuse_flwr.client.handover import carry_to, choose_handover, image_flops, received_backbone
from collafuse_flwr.client.sample_labels import SampleConditioning, condition_samples
from collafuse_flwr.client.state_store import ClientState, ClientStore
from collafuse_flwr.client.training_plan import RoundPlan, plan_round
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import UploadError
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.data.conditioning import conditioning_labels
from collafuse_flwr.data.federated import ClientData
from collafuse_flwr.data.images import ImageSet, ImageSource, normalize
from collafuse_flwr.diffusion.dp_sgd import DpSgdConfig, sampling_rate, train_dp_sgd
from collafuse_flwr.diffusion.loss import bounded_mean, denoising_loss, stratified_steps
from collafuse_flwr.diffusion.stacked import TRAINER, TrainJob
from collafuse_flwr.diffusion.train import TimestepRange, TrainResult, TrainState, cosine_rate
from collafuse_flwr.diffusion.unet import import_diffusers, save_network
from collafuse_flwr.privacy.accounting import Training
from collafuse_flwr.privacy.exposure import Exposure
from collafuse_flwr.privacy.leakage_bounds import covariance_eigenvalues, gaussian_bits
from collafuse_flwr.privacy.ledger import Release
from collafuse_flwr.setup.diffusion import diffusion_setup
from collafuse_flwr.setup.privacy import clip, noised_updates, weight_protections
from collafuse_flwr.wire.codec import Weights
from collafuse_flwr.wire.collafuse import SampleHandoff
from collafuse_flwr.wire.common import EvaluateReply, TrainMetrics

#: Draws of (t, noise) for each held-out image, to measure its loss.
HELD_OUT_DRAWS = 8


@dataclass(frozen=True)
class RoundResult:
    """What a round came to on the client: its metrics, and the denoiser as it is now (None: untouched)."""

    metrics: TrainMetrics
    state: TrainState | None


class DiffusionClient(BaseClient):
    """A client with a denoiser of the steps 1..k, k its cut."""

    def __init__(self, client: int, config: Config, data: ClientData, store: ClientStore, **owner: Any) -> None:
        super().__init__(client, config, data, store, **owner)
        self.setup = diffusion_setup(config)
        #: The cut steps that it may have, the smallest first.
        self.cuts = allowed_cuts(CutContext(config, self.setup, data.train, client, store))
        self.cut = self.cuts[-1]

    def _train_round(
        self,
        round_: int,
        num_rounds: int,
        work: RoundPlan,
        tensors: dict[str, Tensor],
        began: float,
        *,
        backbone: Weights | None = None,
        weights: Weights | None = None,
    ) -> RoundResult:
        """Train on the client's own images as planned, from some state, and keep the state after the round.

        `backbone` is what a fresh denoiser starts from, `weights` what it goes on from in any case.

        Raises:
            UserError: a setting does not fit this client's images.
        """
        trained, flops, state = TrainResult(0.0, 0, 0), 0, None
        self.dp_sgd = work.ledger.dp_sgd
        private = work.steps > 0 and self.config.dp.noise_multiplier > 0
        if private and not self.seeded_secret:
            # Before they are taken: their noise is fresh, so that they count whatever comes of them.
            self.ledger.add_training(self._private(work.steps), self.config.dp.max_grad_norm)
        # What a fresh denoiser starts from comes once, also to a client that has too few images for a step yet.
        if work.steps or weights or (backbone and not tensors):
            state = self._state(tensors, backbone)
            state.network.load_state_dict(weights or {}, strict=False)
            if work.steps:
                trained = self._train(state, round_, num_rounds, work)
                flops = self._cost(state.network).training * trained.images
            tensors = state.state_dict()
            if private and self.seeded_secret:
                self._note_private_steps(tensors, work.steps)
        self.store.save(self._closed(work.ledger, flops), tensors)
        seconds = time.perf_counter() - began - trained.waited
        return RoundResult(TrainMetrics(trained.loss, trained.steps, trained.images, seconds, flops), state)

    def _closed(self, state: ClientState, flops: int) -> ClientState:  # noqa: ARG002 (for those who move their cut)
        """What is kept of a round whose training took so many operations."""
        return state

    def _evaluate(self, handoff: SampleHandoff, averaged: Weights | None = None) -> EvaluateReply:
        """Finish samples with the averaged denoiser, keep them, and compare them to held-out images.

        `averaged` takes the place of the client's own averaged weights wherever it has them.

        Raises:
            UserError: what came is beyond the owner's limits, or at a cut that this client does not have.
        """
        self.cut = self._cut_of(handoff)
        if self.policy is not None:
            snr = float(self.setup.schedule.snr()[self.cut]) * self.data.train.enlargement()
            self.policy.check_handoff(snr, handoff, self._shape())
        import_diffusers()
        began = time.perf_counter()
        exposure, delta = self.ledger.exposure(), self.config.dp.delta
        bits = self._bits(exposure)
        self.ledger.add("measured", bits=bits)
        _, tensors = self.store.load(before=handoff.round + 1)
        held_out_loss, flops, network = 0.0, 0, self._averaged(tensors, averaged) if self.cut else None
        handoff, step = self._taken_over(handoff, network)
        samples, conditioning = handoff.x_k, self._conditioning(handoff, step)
        if network is not None:
            grid, guidance = self.setup.client_grid(self.cut, step), self.config.sampling.guidance_scale
            name = (self.config.run.seed, "finish", self.client, handoff.round)
            samples = self.setup.sample(network, samples, grid, conditioning.labels, name, guidance)
            held_out_loss = self._held_out_loss(network)
            flops = image_flops(self.setup, self._shape(), self.cut, self._cost(network).forward, conditioning.labels)
            save_network(network, self.store.layout.denoiser, self.setup.schedule, self.setup.objective.prediction)
        samples, names = self._bounded(samples), self.data.train.metadata.attribute_names
        self.store.save_samples(samples, conditioning.classes, conditioning.attributes, names)
        self.store.save_trained(self.config.to_flat(), self.client_info(), step)
        return EvaluateReply(
            num_samples=len(samples),
            held_out_loss=held_out_loss,
            kernel_distance=self._distance(samples),
            seconds=time.perf_counter() - began,
            flops_per_image=flops,
            bits=bits,
            releases=exposure.releases,
            release_mu=exposure.mu,
            dp_steps=exposure.dp_steps,
            dp_sgd_epsilon=exposure.training_epsilon(delta),
            dp_total_epsilon=exposure.epsilon(delta),
            dp_client_epsilon=exposure.client_epsilon(delta),
        )

    def _taken_over(self, handoff: SampleHandoff, own: nn.Module | None) -> tuple[SampleHandoff, int]:
        """What the client's network is to finish, and from which step: chosen here, or as it was handed over."""
        try:
            backbone = received_backbone(self.setup, self._shape(), self.cut, handoff)
        except UploadError as error:
            raise self._refusal(str(error)) from None
        if backbone is None or own is None:
            return handoff, self.setup.handover_step(self.cut)
        self._note_step("handover", self.cut)  # which the time of the answer may tell
        drawn = self._source(self.data.held_out), self._seed("hand over")
        step = choose_handover(self.setup, self.cut, own, backbone, *drawn)
        name = (self.config.run.seed, "take over", self.client, handoff.round)
        return carry_to(self.setup, step, backbone, handoff, name, self.config.sampling.guidance_scale), step

    def _cut_of(self, handoff: SampleHandoff) -> int:
        """The cut of samples that are handed over: the client's, or one that it may move to."""
        cut = handoff.cut_step
        if (cut is None and not self.config.recuts()) or cut in self.cuts:
            return self.cut if cut is None else cut
        raise self._refusal(f"`cut_step` = {cut} of the samples")

    def _bits(self, exposure: Exposure) -> float:
        if not exposure.releases:
            return 0.0
        x_0 = clip(self.config, normalize(self.data.train.images))
        # These are the eigenvalues of images as they are released, so the ratio must be that of their values.
        return gaussian_bits(exposure.snr / self.data.train.enlargement(), covariance_eigenvalues(x_0))

    def _note_private_steps(self, tensors: dict[str, Tensor], steps: int) -> None:
        """Note the steps of a simulation by what they led to.

        A round that is repeated after an interruption discloses nothing new if it leads to the same state; if not, it
        has cost as much again, although the server knows of one.
        """
        state, dp = hashlib.blake2b(digest_size=16), self.config.dp
        for name in sorted(tensors):
            state.update(tensors[name].cpu().numpy().tobytes())
        self.ledger.add_training(self._private(steps), dp.max_grad_norm, state.hexdigest())

    def _private(self, steps: int) -> Training:
        rate = sampling_rate(self.config.client.batch_size, len(self.data.train))
        return Training(self.config.dp.noise_multiplier, rate, steps)

    def _plan(
        self, state: ClientState, trained: bool, round_: int, num_rounds: int, releases: Sequence[Release] = ()
    ) -> RoundPlan:
        """The work of a round beside `releases`, on a denoiser that the state has (`trained`) or on a new one.

        Raises:
            PolicyError: it is beyond the owner's limits.
        """
        work = plan_round(self.config, state, round_, num_rounds, len(self.data.train), self.cut)
        private = self.config.dp.noise_multiplier > 0
        dp_sgd = (state.dp_sgd or not trained) and (private or not work.steps)
        if self.policy is not None:
            if "weights" in self.config.spec.sends:
                self.policy.check_weights(weight_protections(self.config, dp_sgd=dp_sgd))
            own = [self._private(work.steps)] if private and work.steps else []
            steps = own + noised_updates(self.config, min(1, work.steps))
            # Of the images that are released and, as one of another size may be one of them, of all.
            after = [self.ledger.exposure(*own, training=steps) for own in ([], releases)] if steps else []
            self.policy.check_training(work.steps, after)
        return replace(work, ledger=replace(work.ledger, dp_sgd=dp_sgd))

    def _network(self) -> nn.Module:
        return self.setup.denoiser(self.client, *self._shape())

    def _state(self, tensors: dict[str, Tensor], backbone: Weights | None) -> TrainState:
        state = TrainState(self._network(), self.config.train.ema_decay)
        if tensors:
            state.load(tensors)
        elif backbone is not None:
            state.init_from(backbone)
        return state

    def _averaged(self, tensors: dict[str, Tensor], averaged: Weights | None) -> nn.Module:
        state = self._state(tensors, None)
        state.network.load_state_dict(state.ema_state_dict() | (averaged or {}), strict=False)
        return state.network

    def _train(self, state: TrainState, round_: int, num_rounds: int, work: RoundPlan) -> TrainResult:
        config, device = self.config, self.runtime.device
        left, done = num_rounds - work.ledger.first_round + 1, round_ - work.ledger.first_round

        def learning_rate(fraction: float) -> float:
            if config.train.lr_schedule == "constant":
                return config.train.learning_rate
            return cosine_rate(config.train.learning_rate, (done + fraction) / left)

        job = (state, self.setup.denoise(state.network), self._source(self.data.train))
        settings: dict[str, Any] = {
            "schedule": self.setup.schedule,
            "objective": self.setup.objective,
            "batch_size": config.client.batch_size,
            "num_steps": work.steps,
            "learning_rate": learning_rate,
            "penalty": state.proximal(config.fedprox.proximal_mu) if config.run.strategy == "fedprox" else None,
            "label_dropout": config.train.cfg_dropout,
            "flip": config.train.random_hflip,
            "max_loss": self._max_loss(),
        }
        if config.dp.noise_multiplier:
            secret, precision = self._secret() if self.seeded_secret else None, str(self.runtime.dtype)
            dp = DpSgdConfig(config.dp.max_grad_norm, config.dp.noise_multiplier, secret, precision)
            return train_dp_sgd(*job, dp=dp, last=self._last_step, **settings)
        generator = named_generator(self._root(), "client", self.client, "round", round_, device=device)
        steps_range = TimestepRange(self._last_step)
        return TRAINER.get()(TrainJob(*job, steps_range=steps_range, generator=generator, **settings))

    @property
    def _last_step(self) -> int:
        """The last step that its denoiser trains: k, or T where it has them all."""
        return self.setup.schedule.timesteps if self.config.client.range == "all" else self.cut

    def _source(self, images: ImageSet) -> ImageSource:
        device = self.runtime.device
        labels = conditioning_labels(self.config.data.conditioning, images)
        return ImageSource(normalize(images.images).to(device), None if labels is None else labels.to(device))

    def _conditioning(self, handoff: SampleHandoff, step: int) -> SampleConditioning:
        generator = named_generator(self._root(), "labels", self.client, handoff.round)
        return condition_samples(self.config, self.setup.schedule, step, self.data.train, handoff, generator)

    @torch.no_grad()
    def _held_out_loss(self, network: nn.Module) -> float:
        """The denoising loss on the held-out images over t = 1..k, always with the same t and noise."""
        generator = named_generator(self._seed("held out"), device=self.runtime.device)
        source = self._source(self.data.held_out)
        rows = torch.arange(len(source), device=generator.device).repeat(HELD_OUT_DRAWS)
        x, start, labels = source.batch(rows)
        t = stratified_steps(start + 1, self.cut, generator)
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        setup, denoise = self.setup, self.setup.denoise(network.eval())
        errors = denoising_loss(setup.schedule, setup.objective, denoise, x, start, t, noise, labels, reduction="none")
        return bounded_mean(errors, self._max_loss()).item()

    def _cost(self, network: nn.Module) -> DenoiserCost:
        return denoiser_cost(self.config, self.setup, network, self._shape())
