"""The server's backbone: training from the pool alone, and the server's half of generation."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from flwr.app import ArrayRecord
from torch import Tensor

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.progress import Progress
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.diffusion.deconvolution import draw_images
from collafuse_flwr.diffusion.sampling import in_parts, sampling_timesteps
from collafuse_flwr.diffusion.setup import DiffusionSetup, SampleBatch, named_noise
from collafuse_flwr.diffusion.train import BatchSource, TimestepRange, TrainState, cosine_rate, train
from collafuse_flwr.diffusion.unet import save_backbone
from collafuse_flwr.evaluation.cost import forward_flops, sampling_flops, training_flops
from collafuse_flwr.wire.codec import Weights
from strategies.held_out_uploads import EVERY, held_out_loss


@dataclass(frozen=True)
class ServerWork:
    """What the server did in a round; `loss` is nan without steps."""

    loss: float
    steps: int
    image_updates: int
    seconds: float
    flops: int


@dataclass(frozen=True)
class SampleOrder:
    """How many samples are wanted, of which labels, if any, and the name of their noise."""

    count: int
    labels: Tensor | None
    name: tuple[int | str, ...]


class Backbone:
    """The shared denoiser of the steps t > k, on the server."""

    def __init__(
        self,
        config: Config,
        setup: DiffusionSetup,
        channels: int,
        size: int,
        num_classes: int,
        num_attributes: int = 0,
    ) -> None:
        self.config, self.setup = config, setup
        self.shape = (channels, size, size)
        self.network = setup.backbone(channels, size, num_classes, num_attributes)
        self.conditional = config.shares_labels()
        self._label = torch.zeros((1, num_attributes) if num_attributes else 1, dtype=torch.int64)
        self.state = TrainState(self.network, config.train.ema_decay)
        #: The averaged weights that did best on held-out uploads, where there are any, and how well.
        self.best: Weights | None = None
        self.best_loss = math.inf
        self._forward = self._count_forward()

    def arrays(self) -> ArrayRecord:
        """The averaged weights, the best that were measured where some were: Flower's global arrays."""
        return ArrayRecord({name: value.cpu() for name, value in self._sampling_weights().items()})

    def _sampling_weights(self) -> Weights:
        return self.state.ema_state_dict() if self.best is None else self.best

    def load_initial(self, arrays: ArrayRecord) -> None:
        """Start training from given weights (the `initial_arrays` of a fresh run)."""
        self.start_from(weights(arrays))

    def start_from(self, start: Weights) -> None:
        """Start training from given weights wherever name and shape agree."""
        self.state.init_from({name: value.to(self.setup.runtime.device) for name, value in start.items()})

    def train(
        self,
        source: BatchSource,
        round_: int,
        num_rounds: int,
        steps: int,
        progress: Progress,
        *,
        above: int = 0,
        lasts: Tensor | None = None,
        loss_scale: float = 1.0,
        held_out: BatchSource | None = None,
    ) -> ServerWork:
        """Take the steps of one round on batches pooled over all clients; steps t up to `above` are left out.

        `lasts` is the last step of each row, where these differ.

        With `held_out` uploads the averaged weights are measured on them from time to time, and the best are kept.
        """
        began, config, device = time.perf_counter(), self.config, self.setup.runtime.device
        if held_out is not None:
            # On those that are held out now: other uploads may have come.
            self.best = self._averaged() if self.best is None else self.best
            self.best_loss = self._measure(self.best, held_out, loss_scale)

        def learning_rate(fraction: float) -> float:
            if config.train.lr_schedule == "constant":
                return config.train.learning_rate
            return cosine_rate(config.train.learning_rate, (round_ - 1 + fraction) / num_rounds)

        def on_step(done: int) -> None:
            progress.step("backbone", done, steps)
            if held_out is not None and (done % EVERY == 0 or done == steps):
                self._keep_best(held_out, loss_scale)

        trained = train(
            self.state,
            self.setup.denoise(self.network),
            source,
            schedule=self.setup.schedule,
            objective=self.setup.objective,
            steps_range=TimestepRange(self.setup.schedule.timesteps, config.upload.noise == "official", above, lasts),
            batch_size=config.server.batch_size,
            num_steps=steps,
            learning_rate=learning_rate,
            generator=named_generator(config.run.seed, "backbone", "round", round_, device=device),
            on_step=on_step,
            label_dropout=config.train.cfg_dropout,
            flip=config.train.random_hflip,
            loss_scale=loss_scale,
        )
        flops = training_flops(self._forward, trained.images)
        return ServerWork(trained.loss, trained.steps, trained.images, time.perf_counter() - began, flops)

    def _averaged(self) -> Weights:
        return {name: value.clone() for name, value in self.state.ema_state_dict().items()}

    def _keep_best(self, held_out: BatchSource, scale: float) -> None:
        """Measure the averaged weights in the midst of training, and keep them if none were better."""
        averaged = self._averaged()
        if (loss := self._measure(averaged, held_out, scale)) <= self.best_loss:
            self.best, self.best_loss = averaged, loss
        self.network.train()

    def _measure(self, held: Weights, held_out: BatchSource, scale: float) -> float:
        with self._swapped_weights(held):
            return held_out_loss(self.setup, self.network, held_out, scale)

    def save(self, folder: Path) -> None:
        """Write the averaged weights as a diffusers folder."""
        with self._swapped_weights(self._sampling_weights()):
            save_backbone(self.network, folder, self.setup.schedule, self.setup.objective.prediction)

    def handoffs(self, arrays: ArrayRecord, cut: int, orders: Sequence[SampleOrder]) -> list[Tensor]:
        """Generate samples of each order from T down to the cut with the given weights, all of them together.

        Returns:
            For each order its samples, shape (count, channels, size, size).
        """
        guidance = self.setup.sampling.guidance_scale
        batches = [
            SampleBatch(
                torch.randn((own.count, *self.shape), generator=named_generator(*own.name, "x_T")), own.labels, own.name
            )
            for own in orders
        ]
        with self._swapped_weights(weights(arrays)):
            return self.setup.sample_together(self.network, batches, self.setup.server_grid(cut), guidance)

    def draw_images(
        self, x_k: Tensor, cut: int, labels: Tensor | None, name: tuple[int | str, ...], steps: int
    ) -> Tensor:
        """Images that uploads at a cut may be of, by the averaged weights (`deconvolution.draw_images`), on the CPU."""
        setup, device = self.setup, self.setup.runtime.device
        with self._swapped_weights(self._sampling_weights()):
            denoise = in_parts(setup.denoise(self.network.eval()), setup.call_rows(x_k.shape[-1]))
            noise, prediction = named_noise(name, device), setup.objective.prediction
            return draw_images(setup.schedule, prediction, denoise, x_k, cut, noise, labels=labels, steps=steps).cpu()

    def draw_flops(self, cut: int, steps: int) -> int:
        """Floating-point operations of it for one image."""
        return sampling_flops(self._forward, len(sampling_timesteps(cut, 0, steps)) - 1, 1)

    def sample_to_cut_flops(self, cut: int) -> int:
        """Floating-point operations of the server's half of one image."""
        calls = self.setup.num_function_evaluations(self.setup.server_grid(cut), self.conditional)
        return sampling_flops(self._forward, calls, 1)

    @contextmanager
    def _swapped_weights(self, held: dict[str, Tensor]) -> Iterator[None]:
        """Let the network hold other weights for a while."""
        trained = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.network.load_state_dict(held)
        try:
            yield
        finally:
            self.network.load_state_dict(trained)

    def _count_forward(self) -> int:
        device = self.setup.runtime.device
        one = torch.ones(1, dtype=torch.int64, device=device)
        x = torch.zeros((1, *self.shape), device=device)
        label = self._label.to(device) if self.conditional else None
        return forward_flops(self.setup.denoise(self.network.eval()), x, one, label)


def weights(arrays: ArrayRecord) -> dict[str, Tensor]:
    """Flower's arrays as torch tensors."""
    return dict(arrays.to_torch_state_dict())
