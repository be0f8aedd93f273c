"""Where a client cuts: as the settings say, or where its own images and its device allow."""

from __future__ import annotations

import json

import torch

from collafuse_flwr.client.store import ClientStore
from collafuse_flwr.data import ImageSet, labels_of, num_attributes, to_model_space
from collafuse_flwr.duration import Unit, last_cut
from collafuse_flwr.errors import SettingError
from collafuse_flwr.evaluation import forward_flops
from collafuse_flwr.files import write_json
from collafuse_flwr.process import Process


def own_cut(process: Process, images: ImageSet, client: int, store: ClientStore) -> int:
    """The cut step of a client, chosen once: it is kept on the client's disk before anything is uploaded.

    A second release at another cut would add to the first, so a cut that was chosen for another target is refused.

    Raises:
        SettingError: this client chose its cut for another target before.
        UserError: no cut keeps to the target.
    """
    config = process.config
    target = config.cut_target()
    if target is None:
        return config.cut_steps()[client]
    path, asked = store.folder / "cut.json", [*target, process.schedule.timesteps, config.model.schedule]
    if not path.exists():
        write_json(path, {"asked": asked, "cut_step": _chosen(process, images, client)})
    kept = json.loads(path.read_text())
    if kept["asked"] != asked:
        raise SettingError(target[0], target[1], f"as before, {kept['asked']}: client {client} has chosen its cut")
    return int(kept["cut_step"])


def _chosen(process: Process, images: ImageSet, client: int) -> int:
    """The cut that keeps to the target: the last for a limit of time, the first for one of disclosure."""
    if process.config.split.cut_seconds:
        return last_cut(process.config, unit_of(process, images), len(images), client)
    # Slow to import, for a deployed client at every message.
    from collafuse_flwr.privacy.choice import choose_cut  # noqa: PLC0415

    return choose_cut(process.config, process.schedule, to_model_space(images.images), client)


def unit_of(process: Process, images: ImageSet) -> Unit:
    """What work on such images is counted in: the cost of a client's network, counted for one of them."""
    config, attributes = process.config, num_attributes(process.config, images)
    _, channels, size, _ = images.images.shape
    network = process.denoiser(0, channels, size, images.num_classes, attributes)
    one = images.subset(torch.zeros(1, dtype=torch.int64))
    device, labels = process.runtime.device, labels_of(config, one)
    step = torch.ones(1, dtype=torch.int64, device=device)
    x = to_model_space(one.images).to(device)
    flops = forward_flops(process.denoise(network.eval()), x, step, None if labels is None else labels.to(device))
    weights = sum(value.nbytes for value in network.state_dict().values())
    return Unit.of(config, flops, weights, x.numel(), attributes)
