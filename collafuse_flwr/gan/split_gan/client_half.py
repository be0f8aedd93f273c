"""A client's half of the split GAN: heads and tails of both nets, and its part of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from collafuse_flwr.core.grid import on_grid
from collafuse_flwr.gan.label_tail import label_tails, learning_labels
from collafuse_flwr.gan.networks import NETS, Architecture, Blocks, Cuts, block_name, group_by_block
from collafuse_flwr.gan.split_gan.activation_noise import clip_rows, running_statistics
from collafuse_flwr.gan.split_gan.factored_gradients import can_factor, weight_of
from collafuse_flwr.gan.split_gan.ops import (
    OptimConfig,
    Tensors,
    adam_state,
    frozen_statistics,
    gradient,
    load_adam_state,
    requires_grad_leaf,
    step,
    without_weight_gradients,
)
from collafuse_flwr.gan.split_gan.weight_average import WeightAverage

#: A client's pieces of the two nets.
PARTS = ("g_head", "g_tail", "d_head", "d_tail")


@dataclass(frozen=True)
class Batch:
    """Images in [-1, 1], (n, channels, size, size); labels int64, (n,); latent codes, (n, 100).

    `noise` gives what is added to the discriminator's activations before they leave, by their name and values, which
    are bounded first (activation_noise.py). `drawn` are labels of the fake images that are not those of the real ones;
    `augment` changes images, by the name of their activations, before the discriminator sees them. `shown_labels` are
    what its head is given instead of the images' labels, by the same name, where its tail takes those.
    """

    x: Tensor
    labels: Tensor
    z: Tensor
    noise: Callable[[str, Tensor], Tensor] | None = None
    drawn: Tensor | None = None
    augment: Callable[[str, Tensor], Tensor] | None = None
    shown_labels: Callable[[str], Tensor] | None = None

    @property
    def fake_labels(self) -> Tensor:
        """The labels of the fake images."""
        return self.labels if self.drawn is None else self.drawn

    def shown(self, name: str, x: Tensor) -> Tensor:
        """Images as the discriminator sees them."""
        return x if self.augment is None else self.augment(name, x)

    def labels_of(self, name: str) -> Tensor:
        """What the discriminator's head takes as labels of images whose activations are dh_real, dh_fake or dh."""
        if self.shown_labels is not None:
            return self.shown_labels(name)
        return self.labels if name.endswith("real") else self.fake_labels


@dataclass
class ForwardCache:
    """What a client remembers between the phases of a batch.

    `batch` and `gt` must be kept or given again. The rest can be computed again from them, and is where it is missing.
    """

    batch: Batch | None = None
    gt: Tensor | None = None
    gh: Tensor | None = None
    fake: Tensor | None = None
    dh: Tensors = field(default_factory=dict)


class ClientHalf:
    """One client's heads and tails, trained by answering the six phases of a batch (arXiv 2507.12979).

    The discriminator descends BCE(D(G(z, y)), 0) + BCE(D(x, y), 1), the generator BCE(D(G(z, y)), 1), with the same
    fake images for both. An object whose tape was lost (another process took over) gives the same bits: it computes
    again what it needs, without moving running statistics.
    """

    def __init__(
        self,
        architecture: Architecture,
        cuts: Cuts,
        name: tuple[int | str, ...],
        optim_config: OptimConfig,
        factored: bool = False,
    ) -> None:
        """Blocks as `name` gives them (see `Architecture.build`); `factored` as in factored_gradients.py."""
        self.parts: dict[str, Blocks] = {}
        for net in NETS:
            count = len(getattr(architecture, net))
            for end, indices in (("head", cuts.head(net)), ("tail", cuts.tail(net, count))):
                self.parts[f"{net[0]}_{end}"] = optim_config.place(architecture.build(net, indices, name))
        self.optimisers = {part: optim_config.optimiser(self.parts[part]) for part in PARTS}
        self.factored = {net: factored and can_factor(self.parts[f"{net}_tail"]) for net in "gd"}
        self.runtime, self.optim_config = optim_config.runtime, optim_config
        self.averages = {part: WeightAverage(self.parts[part], optim_config.ema) for part in ("g_head", "g_tail")}
        self.tape = ForwardCache()
        self.losses = {"discriminator": 0.0, "generator": 0.0}

    def begin(self, batch: Batch) -> Tensors:
        """Phase 1, after `close`: send the generator's head of fresh codes, gh."""
        self.tape = ForwardCache(batch)
        self.tape.gh = self._run("g_head", batch.z, batch.fake_labels)
        return {"gh": self.tape.gh.detach()}

    def close(self, grad_gh: Tensor) -> None:
        """End the batch before: the gradient at gh trains the generator's head."""
        gh = self.tape.gh
        if gh is None:
            batch = self._batch()
            gh = self._again("g_head", batch.z, batch.fake_labels)
        gh.backward(grad_gh)
        self._step("g_head")
        self.tape = ForwardCache()

    def answer(self, phase: str, received: Tensors) -> Tensors:
        """One of the phases 2 to 6."""
        answers: dict[str, Callable[..., Tensors]] = {
            "fake": self._fake,
            "judge": self._judge,
            "discriminator": self._discriminator,
            "score": self._score,
            "generator": self._generator,
        }
        return answers[phase](**received)

    def _fake(self, gt: Tensor) -> Tensors:
        """2: finish fake images, and send the discriminator's head of fake and of real ones, in this order."""
        self.tape.gt = requires_grad_leaf(gt)
        self.tape.fake = self._run("g_tail", self.tape.gt)
        self.tape.dh["dh_fake"] = self._d_head("dh_fake", self.tape.fake.detach())
        self.tape.dh["dh_real"] = self._d_head("dh_real", self._batch().x)
        return self._leaving(self.tape.dh)

    def _judge(self, dt_fake: Tensor, dt_real: Tensor) -> Tensors:
        """3: the discriminator's loss; its tail is trained, and the gradients at the cut go back."""
        at = {"dt_fake": requires_grad_leaf(dt_fake), "dt_real": requires_grad_leaf(dt_real)}
        batch, own = self._batch(), self.optim_config
        with learning_labels(self.parts["d_tail"]):
            logits = [
                self._run("d_tail", dt, labels)
                for dt, labels in zip(at.values(), (batch.fake_labels, batch.labels), strict=True)
            ]
        self.losses["discriminator"] = own.reported(logits, 0.0, 1.0)
        sent = self._back(own.loss(logits[0], 0.0) + own.loss(logits[1], 1.0), at, logits)
        step(self.optimisers["d_tail"])
        return sent

    def _discriminator(self, grad_dh_fake: Tensor, grad_dh_real: Tensor) -> Tensors:
        """4: train the discriminator's head, and send its new activations on the fake images."""
        dh = self.tape.dh
        if not dh:
            dh["dh_fake"] = self._d_head("dh_fake", self._fake_images().detach(), again=True)
            dh["dh_real"] = self._d_head("dh_real", self._batch().x, again=True)
        torch.autograd.backward([dh["dh_fake"], dh["dh_real"]], [grad_dh_fake, grad_dh_real])
        step(self.optimisers["d_head"])
        with without_weight_gradients(self.parts["d_head"]):
            self.tape.dh = {"dh": self._d_head("dh", self._fake_images())}
        return self._leaving(self.tape.dh)

    def _score(self, dt: Tensor) -> Tensors:
        """5: the generator's loss; the gradient at the cut goes back."""
        at = requires_grad_leaf(dt)
        with without_weight_gradients(self.parts["d_tail"]):
            logits = self._run("d_tail", at, self._batch().fake_labels)
        own = self.optim_config
        self.losses["generator"] = own.reported([logits], 1.0, fool=True)
        return self._back(own.loss(logits, 1.0, fool=True), {"dt": at}, [logits])

    def _generator(self, grad_dh: Tensor) -> Tensors:
        """6: propagate the gradient through the fake images; train the generator's tail."""
        fake = self._fake_images()
        dh = self.tape.dh.get("dh")
        if dh is None:
            with without_weight_gradients(self.parts["d_head"]):
                dh = self._d_head("dh", fake, again=True)
        fake.retain_grad()
        dh.backward(grad_dh)
        assert self.tape.gt is not None
        sent = {"grad_gt": gradient(self.tape.gt)}
        if self.factored["g"]:
            through_tanh = gradient(fake).float() * (1 - fake.detach().float() ** 2)
            sent = {"factor_gt": through_tanh, "weight_gt": weight_of(self.parts["g_tail"])}
        self._step("g_tail")
        self.tape = ForwardCache(self.tape.batch, gh=self.tape.gh)
        return sent

    def begin_round(self) -> None:
        """From here on the discriminator's tail shows what it has learnt of labels so far (gan/label_tail.py)."""
        for part in label_tails(self.parts["d_tail"]):
            part.begin_round()

    def blocks(self) -> dict[str, Tensor]:
        """The state of all blocks, by names that are the same for head and tail (see `block_name`)."""
        return {
            block_name(net, index, name): value
            for net, part in ((net, self.parts[f"{net[0]}_{end}"]) for net in NETS for end in ("head", "tail"))
            for index in part.indices
            for name, value in part[index].state_dict().items()
        }

    def averaged_blocks(self) -> dict[str, Tensor]:
        """The generator's blocks, averaged over steps; none where there is no average."""
        return {
            name.replace("blocks", "generator", 1): value
            for average in self.averages.values()
            for name, value in average.tensors.items()
        }

    def load_blocks(self, state: dict[str, Tensor]) -> None:
        """Take up blocks by such names; others stay as they are."""
        for net in NETS:
            for index, own in group_by_block(state, net).items():
                head = self.parts[f"{net[0]}_head"]
                part = head if index in head.indices else self.parts[f"{net[0]}_tail"]
                part[index].load_state_dict(own)

    def state(self) -> dict[str, Tensor]:
        """Weights, running statistics and Adam's moments of all parts, by name; to be kept on the client's disk."""
        return {name: value for part in PARTS for name, value in self.part_state(part).items()}

    def part_state(self, part: str) -> dict[str, Tensor]:
        """The same of one part."""
        tensors = {f"{part}.{name}": value for name, value in self.parts[part].state_dict().items()}
        average = self.averages[part].state(f"ema.{part}.") if part in self.averages else {}
        return tensors | adam_state(self.optimisers[part], f"adam.{part}.") | average

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `state`, or `part_state` of any parts, gave."""
        for part in PARTS:
            own = {name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(part)}
            if own:
                self.parts[part].load_state_dict(own)
                load_adam_state(self.optimisers[part], tensors, f"adam.{part}.")
                if part in self.averages:
                    self.averages[part].load(tensors, f"ema.{part}.")

    def _step(self, part: str) -> None:
        """Train a part of the generator, and take its new weights into their average."""
        step(self.optimisers[part])
        self.averages[part].update()

    def _back(self, loss: Tensor, at: Tensors, logits: list[Tensor]) -> Tensors:
        """The gradients of a loss at the cut `dt`, or their factors."""
        for own in logits:
            own.retain_grad()
        loss.backward()
        if not self.factored["d"]:
            return {f"grad_{name}": gradient(dt) for name, dt in at.items()}
        factors = {f"factor_{name}": gradient(own) for name, own in zip(at, logits, strict=True)}
        return factors | {"weight_dt": weight_of(self.parts["d_tail"])}

    def _leaving(self, dh: Tensors) -> Tensors:
        """Activations as they leave: with noise, if there is any."""
        noise, sent = self._batch().noise, {name: x.detach() for name, x in dh.items()}
        return sent if noise is None else {name: on_grid(x + noise(name, x)) for name, x in sent.items()}

    def _batch(self) -> Batch:
        assert self.tape.batch is not None
        return self.tape.batch

    def _fake_images(self) -> Tensor:
        if self.tape.fake is None:
            assert self.tape.gt is not None
            self.tape.gt = requires_grad_leaf(self.tape.gt)
            self.tape.fake = self._again("g_tail", self.tape.gt)
        return self.tape.fake

    def _d_head(self, name: str, x: Tensor, *, again: bool = False) -> Tensor:
        """The discriminator's head of images with their labels; where noise is added, each row is bounded."""
        batch, run = self._batch(), self._again if again else self._run
        x, labels = batch.shown(name, x), batch.labels_of(name)
        if batch.noise is None:
            return run("d_head", x, labels)
        with running_statistics(self.parts["d_head"]):
            return clip_rows(run("d_head", x, labels))

    def _run(self, part: str, x: Tensor, labels: Tensor | None = None) -> Tensor:
        with self.runtime.autocast():
            result: Tensor = self.parts[part](x, labels)
        return result

    def _again(self, part: str, x: Tensor, labels: Tensor | None = None) -> Tensor:
        with frozen_statistics(self.parts[part]):
            return self._run(part, x, labels)
