"""How many clients train at once: as the settings say, or the stack whose steps are fastest on this machine."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import time
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import replace

import torch

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.atomic_io import make_private_folder, write_json
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.core.runtime import available_cores, threads
from collafuse_flwr.data.conditioning import conditioning_labels, num_attributes
from collafuse_flwr.data.federated import federation_data
from collafuse_flwr.data.image_cache import cache_folder, forget_old_sets
from collafuse_flwr.data.images import ImageSource, normalize
from collafuse_flwr.diffusion.setup import DiffusionSetup
from collafuse_flwr.diffusion.stacked import TrainJob, train_all
from collafuse_flwr.diffusion.train import TimestepRange, TrainState
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.setup.diffusion import diffusion_setup

#: Stacks that are tried; larger ones gained no more.
SIZES = (1, 2, 5, 10)
#: Steps of each client in a turn, and turns, of which the fastest counts: the machine may have other work.
STEPS, TURNS = 5, 3
#: How many times as fast a stack must be: what is less may be chance.
WORTH = 1.1
#: Where the cache has what was measured, and how many of these are kept.
FOLDER, KEPT = "stacks", 64


class StackSize:
    """The number of clients in a stack, measured when it is first wanted: the run's folder is there by then."""

    def __init__(self, config: Config, run_id: int, workers: int = 1) -> None:
        """`workers` share the clients of a round: no stack is so large that one of them has nothing to do."""
        self._config, self._layout = config, RunLayout.of(config, run_id)
        clients = max(1, round(config.federation.fraction_train * config.run.num_supernodes))
        self._most = math.ceil(clients / workers)
        self._size = config.resources.stack_clients if can_stack(config) else 1

    def __call__(self) -> int:
        """The number of clients in a stack; 1: each trains by itself."""
        if not self._size:
            self._size = self._recorded() or self._measured()
        return self._size

    def _recorded(self) -> int:
        """What the run has begun with; 0 if it begins now, 1 if there is nothing to measure."""
        path = self._layout.stack
        if path.is_file():
            return int(json.loads(path.read_text())["clients"])
        return 1 if self._most == 1 else 0

    def _measured(self) -> int:
        size = fastest_stack(self._config, self._most)
        write_json(self._layout.stack, {"clients": size})
        number = f"{size} clients train at once" if size > 1 else "clients train one after another"
        print(f"{number}, which is fastest here (`resources.stack_clients` sets it)", flush=True)
        return size


def can_stack(config: Config) -> bool:
    """Whether clients of a run could train as one: denoisers do that train whole, and not image by image (DP-SGD)."""
    return not config.spec.is_gan and not config.dp.noise_multiplier and config.client.trained_parts == "all"


def fastest_stack(config: Config, most: int) -> int:
    """The fastest of `SIZES`, up to `most` clients, by a few steps of each, or by those that an earlier run took.

    Args:
        config: of the run; its networks, images, batches and device count.
        most: clients in a stack, above 1.
    """
    sizes = sorted({min(size, most) for size in SIZES})
    if config.run.runner == "ray" and not config.resources.client_num_gpus:
        # Ray hides the GPUs from such clients.
        config = replace(config, run=replace(config.run, device="cpu"))
    setup = diffusion_setup(config)
    jobs = _jobs(config, setup, max(sizes))
    kind = jobs[0].stack_key()
    if kind is None:
        return 1
    path = cache_folder(config.data) / FOLDER / f"{_key(config, setup, kind, sizes)}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        size = json.loads(path.read_text())["clients"]
        if size in sizes:
            return int(size)
    with threads(config.resources.client_threads):
        size = _fastest(jobs, sizes)
    # Without it the next run measures again.
    with suppress(OSError):
        make_private_folder(path.parent)
        write_json(path, {"clients": size})
        forget_old_sets(path.parent, KEPT)
    return size


def _jobs(config: Config, setup: DiffusionSetup, count: int) -> list[TrainJob]:
    """The training of some clients, of new networks on the first images of the run."""
    federation = federation_data(config.data, config.run.num_supernodes, config.run.seed)
    images = federation.images.subset(torch.arange(min(len(federation.images), config.client.batch_size)))
    labels, device = conditioning_labels(config.data.conditioning, images), setup.runtime.device
    attributes = num_attributes(config.data.conditioning, images)
    x = normalize(images.images).to(device)
    source = ImageSource(x, None if labels is None else labels.to(device))
    return [
        TrainJob(
            state=TrainState(network, config.train.ema_decay),
            denoise=setup.denoise(network),
            source=source,
            schedule=setup.schedule,
            objective=setup.objective,
            steps_range=TimestepRange(setup.schedule.timesteps),
            batch_size=config.client.batch_size,
            num_steps=STEPS,
            learning_rate=lambda _: config.train.learning_rate,
            generator=named_generator("stack", client, device=device),
        )
        for client in range(count)
        for network in [setup.denoiser(client, x.shape[1], x.shape[2], images.num_classes, attributes)]
    ]


def _fastest(jobs: Sequence[TrainJob], sizes: Sequence[int]) -> int:
    """The size with the shortest step for each client, 1 unless another is `WORTH` it; sizes take turns."""
    best = dict.fromkeys(sizes, math.inf)
    train_all(jobs)
    for _ in range(TURNS):
        for size in sizes:
            began = time.perf_counter()
            train_all(jobs[:size])
            best[size] = min(best[size], (time.perf_counter() - began) / size)
    fastest = min(sizes, key=best.__getitem__)
    return fastest if best[1] > WORTH * best[fastest] else 1


def _key(config: Config, setup: DiffusionSetup, kind: Hashable, sizes: Sequence[int]) -> str:
    """The name of what was measured: all that a step's time hangs on."""
    device = setup.runtime.device
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    # The user's cache may be a folder that several machines share.
    machine = platform.node(), available_cores(), card, str(setup.runtime.dtype), config.resources.client_threads
    parts = torch.__version__, *machine, kind, tuple(sizes)
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()
