"""Eight short runs and the SHA-256 of what they give: a rebuilding must not change a bit of it.

    uv run python -m tests.same_bits check
    uv run python -m tests.same_bits record

A run has two sums: of the numbers in its summary (without what is measured in seconds) and of its final weights and
uploads. They hold for one version of torch on one kind of CPU, which are recorded with them; `check` is skipped
elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

RECORD = Path(__file__).with_suffix(".json")
#: Time is not part of what must stay.
TIMES = {"seconds", "client_seconds", "batch_seconds", "modelled_seconds"}
COMMON = (
    "dataset=digits runner=local num_rounds=2 data.max_images=150 train.local_epochs=1 quiet=true "
    "resources.server_threads=1 device=cpu precision=float32 evaluation.num_samples=24"
)
DIFFUSION = f"{COMMON} num_supernodes=3 model=nano diffusion.timesteps=20 sampling.steps=6"
CUT = f"{DIFFUSION} server.batch_size=32"
GAN = f"{COMMON} num_supernodes=4 partition=iid gan.width=2 gan.batch_size=8 data.max_images=80"
CUT_GAN = (
    f"{GAN} strategy=huscf_gan split_gan.client_cuts=[0000,0010,1110,1111] clustering.warmup_rounds=1 "
    "clustering.num_clusters=2"
)
CASES = {
    "collafuse": f"{CUT} cut_ratio=0.3",
    "mixed_cuts": f"{CUT} cut.client_ratios=[0.1,0.3,0.6] upload.draws_per_image=2 upload.noise=resampled "
    "train.cfg_dropout=0.1 sampling.guidance_scale=1.5",
    "fedavg": f"{DIFFUSION} strategy=fedavg",
    "hybrid": f"{CUT} strategy=hybrid cut_ratio=0.3",
    "pfdm_dp_sgd": f"{CUT} strategy=pfdm upload.clip_norm=4.3 dp.noise_multiplier=1.0 "
    "cut.policy=by_disclosure cut.criterion=epsilon cut.target=8 diffusion.schedule=linear diffusion.timesteps=100",
    "huscf_gan_messages": f"{CUT_GAN} gan.transport=messages",
    "huscf_gan_in_process": f"{CUT_GAN} gan.transport=in_process gan.wire_dtype=bfloat16 "
    "split_gan.factor_tail_gradients=true",
    "mdgan": f"{GAN} strategy=mdgan mdgan.k=2 gan.transport=in_process",
}


def machine() -> dict[str, str]:
    """What equal bits depend on beside the code."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    # Libraries choose their kernels by the vendor too.
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("vendor_id", "model name"))]
    processor = " ".join(dict.fromkeys(names)) or platform.processor()
    return {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability(), "processor": processor}


def sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of a finished run's numbers and of its weights."""
    numbers = json.dumps(_without_times(json.loads((folder / "summary.json").read_text())), sort_keys=True)
    return {"numbers": hashlib.sha256(numbers.encode()).hexdigest(), "weights": _weights(folder)}


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key not in TIMES}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


def _weights(folder: Path) -> str:
    """Of the sorted sums of all tensors, wherever and under whatever name they are stored, and of the uploads."""
    parts = [hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.bin")]
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 (it is no mapping)
                tensor = stored.get_tensor(name)
                content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
                parts.append(hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + content).hexdigest())
    return hashlib.sha256("".join(sorted(parts)).encode()).hexdigest()


def run(name: str, folder: Path) -> dict[str, str]:
    """Run one case and return its sums."""
    command = [sys.executable, "-m", "simulations.run", *CASES[name].split(), f"output={folder}"]
    subprocess.run(command, check=True, cwd=RECORD.parents[1], env=os.environ | {"OMP_NUM_THREADS": "1"})
    return sums(folder)


def main(mode: str) -> int:
    """Record or check all cases; the number of cases that differ."""
    stored = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if mode == "check" and stored["machine"] != machine():
        print(f"skipped: the sums are of {stored['machine']}, this is {machine()}")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        digests = {name: run(name, Path(folder) / name) for name in CASES}
    if mode == "record":
        RECORD.write_text(json.dumps({"machine": machine(), "runs": digests}, indent=1) + "\n")
        return 0
    differing = 0
    for name, parts in digests.items():
        for part, value in parts.items():
            same = value == stored["runs"][name][part]
            differing += not same
            print(f"{name:21} {part:8} {'same' if same else 'DIFFERS'}  {value[:16]}")
    return differing


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if sys.argv[1:] in (["check"], ["record"]) else sys.exit(__doc__)))
