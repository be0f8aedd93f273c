"""Where a client may cut: a policy for each way to say it, which `cut.policy` names.

A policy gives the cut steps that the client may have, the smallest first; it begins at the last. Where there are
several, the client moves between them in the middle of a run (see `adaptive_cut`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from collafuse_flwr.client.state_store import ClientStore
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.atomic_io import append_json_lines, read_appended
from collafuse_flwr.core.errors import DamagedError, DataError, SettingError
from collafuse_flwr.data.conditioning import conditioning_labels, num_attributes
from collafuse_flwr.data.images import ImageSet, normalize
from collafuse_flwr.diffusion.setup import DiffusionSetup
from collafuse_flwr.evaluation.cost import forward_flops
from collafuse_flwr.setup.privacy import choose_cut, clipped_to, total_releases
from collafuse_flwr.setup.round_cost import WorkUnit, largest_cut_within_time


@dataclass(frozen=True, eq=False)
class CutContext:
    """What a policy decides by: the settings, the client, its images and its disk."""

    config: Config
    setup: DiffusionSetup
    images: ImageSet
    client: int
    store: ClientStore


CutPolicy = Callable[[CutContext], tuple[int, ...]]


def fixed(context: CutContext) -> tuple[int, ...]:
    """The cut of the settings: `cut_ratio`, or the client's own of `cut.client_ratios`."""
    return (context.config.cut_steps()[context.client],)


def by_device(context: CutContext) -> tuple[int, ...]:
    """The largest cut at which no round should take the client's device longer than `cut.target` seconds."""

    def choose() -> int:
        unit = work_unit(context.config, context.setup, context.images)
        return largest_cut_within_time(context.config, unit, len(context.images), context.client)

    return (_kept(context, choose),)


def by_disclosure(context: CutContext) -> tuple[int, ...]:
    """The smallest cut at which the client's images disclose at most `cut.target`, by `cut.criterion`."""
    schedule = context.setup.schedule

    def choose() -> int:
        return choose_cut(context.config, schedule, normalize(context.images.images), context.client)

    return (_kept(context, choose),)


def adaptive(context: CutContext) -> tuple[int, ...]:
    """Those of `cut.choices` at which the client's images disclose at most `cut.target`; all without a criterion.

    Raises:
        DataError: there is none.
    """
    cuts = context.config.cuts_of(context.client)
    (floor,) = by_disclosure(context) if context.config.cut_target() is not None else (0,)
    if floor > cuts[-1]:
        raise DataError(
            f"`cut.choices` = {list(context.config.cut.choices)} has no cut at which client {context.client} keeps to "
            f"`cut.target` = {context.config.cut.target:g} ({context.config.cut.criterion})"
        )
    return tuple(cut for cut in cuts if cut >= floor)


POLICIES: dict[str, CutPolicy] = {own.__name__: own for own in (fixed, by_device, by_disclosure, adaptive)}


def allowed_cuts(context: CutContext) -> tuple[int, ...]:
    """The cut steps that a client may have, as `cut.policy` says.

    Raises:
        SettingError: this client chose its cut for another target, or by other images, before.
        UserError: no cut keeps to the target, or the file of the one that was chosen is damaged.
    """
    return POLICIES[context.config.cut.policy](context)


def _kept(context: CutContext, choose: Callable[[], int]) -> int:
    """What is chosen once, and kept on the client's disk before anything is uploaded.

    A second release at another cut would add to the first where clipping or draws differ, so a cut that was chosen for
    another target, or by other images, is refused.
    """
    config, setup, images, client = context.config, context.setup, context.images, context.client
    target = config.cut_target()
    assert target is not None, "a policy with a limit has a target"
    # All that the disclosure at a cut hangs on: a cut that was chosen for less is none for more.
    chosen_for = (clipped_to(config, images.images[0].numel()), config.upload.noise, total_releases(config))
    # And the images themselves, whatever chose them: the data set, its size, how many are used.
    of_images = (
        images.name,
        *images.images.shape,
        hashlib.blake2b(images.images.numpy().tobytes(), digest_size=8).hexdigest(),
    )
    schedule = setup.schedule.timesteps, config.diffusion.schedule
    requirements = [*target, *schedule, *chosen_for, config.dp.delta, *of_images]
    path = context.store.layout.cut
    # Two messages at once would each write down a choice.
    with context.store.lock():
        try:
            rows = read_appended(path)
        except ValueError:
            raise DamagedError(path) from None
        if not rows:
            rows = append_json_lines(path, [{"asked": requirements, "cut_step": choose()}])
    (kept,) = rows
    if kept["asked"] != requirements:
        raise SettingError("cut.target", target[1], f"as before, {kept['asked']}: client {client} has chosen its cut")
    return int(kept["cut_step"])


def work_unit(config: Config, setup: DiffusionSetup, images: ImageSet) -> WorkUnit:
    """What work on such images is counted in: the cost of a client's network, counted for one of them."""
    attributes = num_attributes(setup.conditioning, images)
    _, channels, size, _ = images.images.shape
    network = setup.denoiser(0, channels, size, images.num_classes, attributes)
    one = images.subset(torch.zeros(1, dtype=torch.int64))
    device, labels = setup.runtime.device, conditioning_labels(setup.conditioning, one)
    step = torch.ones(1, dtype=torch.int64, device=device)
    x = normalize(one.images).to(device)
    flops = forward_flops(setup.denoise(network.eval()), x, step, None if labels is None else labels.to(device))
    weights = sum(value.nbytes for value in network.state_dict().values())
    return WorkUnit.of(config, flops, weights, x.numel(), attributes)
