"""Where a client cuts: as the settings say, or where its own images and its device allow."""

from __future__ import annotations

import hashlib

import torch

from collafuse_flwr.client.state_store import ClientStore
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.atomic_io import append_json_lines, read_appended
from collafuse_flwr.core.errors import DamagedError, SettingError
from collafuse_flwr.data.conditioning import conditioning_labels, num_attributes
from collafuse_flwr.data.images import ImageSet, normalize
from collafuse_flwr.diffusion.setup import DiffusionSetup
from collafuse_flwr.evaluation.cost import forward_flops
from collafuse_flwr.setup.privacy import choose_cut, clipped_to, total_releases
from collafuse_flwr.setup.round_cost import WorkUnit, largest_cut_within_time


def select_cut(config: Config, setup: DiffusionSetup, images: ImageSet, client: int, store: ClientStore) -> int:
    """The cut step of a client, chosen once: it is kept on the client's disk before anything is uploaded.

    A second release at another cut would add to the first, so a cut that was chosen for another target, or by other
    images, is refused.

    Raises:
        SettingError: this client chose its cut for another target, or by other images, before.
        UserError: no cut keeps to the target, or the file of the one that was chosen is damaged.
    """
    target = config.cut_target()
    if target is None:
        return config.cut_steps()[client]
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
    path = store.layout.cut
    try:
        rows = read_appended(path)
    except ValueError:
        raise DamagedError(path) from None
    if not rows:
        chosen = {"asked": requirements, "cut_step": _chosen(config, setup, images, client)}
        rows = append_json_lines(path, [chosen])
    (kept,) = rows
    if kept["asked"] != requirements:
        raise SettingError("cut.target", target[1], f"as before, {kept['asked']}: client {client} has chosen its cut")
    return int(kept["cut_step"])


def _chosen(config: Config, setup: DiffusionSetup, images: ImageSet, client: int) -> int:
    """The cut that keeps to the target: the last for a limit of time, the first for one of disclosure."""
    if config.cut.criterion == "seconds":
        return largest_cut_within_time(config, work_unit(config, setup, images), len(images), client)
    return choose_cut(config, setup.schedule, normalize(images.images), client)


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
