"""What a round with very many clients needs of memory: all processes of a run together, at its peak.

    python -m simulations.bench.memory                                   # 50,000 images of 1,000 persons, 64 pixels
    python -m simulations.bench.memory images=5000 persons=100 runner=ray output=memory.json

Writes a synthetic set in CelebA's layout (`output` is kept, the set is not), runs one round with a client for each
person as a process of its own, and adds up the proportional share of every process of the run in the memory that they
share. The rest of the settings can be given as for simulations.run. Linux only.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from collafuse_flwr.core.atomic_io import write_json
from simulations.cli import FAILED

#: Images, persons, pixels a side, and the settings of the run beside the data's own.
DEFAULTS: dict[str, Any] = {"images": 50_000, "persons": 1000, "size": 64, "output": "memory.json"}
RUN = {
    "num_rounds": 1,
    "train.local_epochs": 0.1,
    "server.batch_size": 32,
    "model": "nano",
    "evaluation.num_samples": 2000,
    "evaluation.tstr": "none",
}
RUN |= {"sampling.steps": 10, "runner": "local"}
#: Seconds between looks at the processes.
INTERVAL = 0.5


def write_celeba(folder: Path, images: int, persons: int, size: int) -> None:
    """A set in CelebA's layout: smooth random colours, a hue for each person, two attributes."""
    generator, pictures = np.random.default_rng(0), folder / "img_align_celeba"
    pictures.mkdir(parents=True)
    hues = generator.integers(40, 216, (persons, 3))
    names = [f"{i + 1:06d}.jpg" for i in range(images)]
    for i, name in enumerate(names):
        coarse = np.clip(hues[i % persons] + generator.integers(-40, 40, (4, 4, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(coarse).resize((size, size)).save(pictures / name, quality=80)
    rows = [f"{name} {1 if i % 2 else -1} {1 if i % 3 else -1}" for i, name in enumerate(names)]
    (folder / "list_attr_celeba.txt").write_text("\n".join([str(images), "Smiling Male", *rows]) + "\n")
    identities = [f"{name} {i % persons + 1}" for i, name in enumerate(names)]
    (folder / "identity_CelebA.txt").write_text("\n".join(identities) + "\n")


def tree(process: psutil.Process) -> Iterator[psutil.Process]:
    """A process and all that it started."""
    yield process
    yield from process.children(recursive=True)


def megabytes(process: psutil.Process) -> float:
    """The proportional share of all of a run's processes, in MB."""
    total = 0
    for one in tree(process):
        try:
            total += one.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total / 1e6


def measure(arguments: list[str]) -> tuple[int, float, float]:
    """Run simulations.run; its exit status, the peak of its memory in MB, and the seconds it took."""
    began, peak = time.monotonic(), 0.0
    with subprocess.Popen([sys.executable, "-m", "simulations.run", *arguments]) as run:
        process = psutil.Process(run.pid)
        while run.poll() is None:
            try:
                peak = max(peak, megabytes(process))
            except psutil.NoSuchProcess:
                break
            time.sleep(INTERVAL)
    return run.returncode, peak, time.monotonic() - began


def main(arguments: list[str]) -> int:
    """Measure, print and write what was measured; the exit status is 1 if the run failed."""
    overrides = dict(argument.split("=", 1) for argument in arguments)
    own = {name: type(default)(overrides.pop(name, default)) for name, default in DEFAULTS.items()}
    with tempfile.TemporaryDirectory() as folder:
        write_celeba(Path(folder) / "celeba", own["images"], own["persons"], own["size"])
        data = {
            "dataset": "celeba",
            "dataset_path": f"{folder}/celeba",
            "data.cache_path": f"{folder}/decoded",
            "image_size": own["size"],
            "partition": "by_identity",
            "num_supernodes": own["persons"],
            "output": f"{folder}/run",
        }
        settings = data | RUN | overrides
        status, peak, seconds = measure([f"{name}={value}" for name, value in settings.items()])
    write_json(Path(own["output"]), {"peak_megabytes": peak, "seconds": seconds, "settings": own | RUN | overrides})
    print(f"{own['persons']} clients, {own['images']} images: at most {peak:.0f} MB, {seconds:.0f} s")
    return FAILED if status else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
