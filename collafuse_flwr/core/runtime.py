"""Where and how networks are run: device, precision and threads, chosen from what the machine has."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from collafuse_flwr.core.errors import SettingError


@dataclass(frozen=True)
class Runtime:
    """A device and the arithmetic that networks use on it; losses and states stay float32."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> torch.autocast:
        """A context in which networks run in `dtype`."""
        enabled = self.dtype is not torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype if enabled else None, enabled=enabled)


def choose_runtime(device: str = "auto", precision: str = "auto") -> Runtime:
    """Resolve `auto`: CUDA, else MPS, else CPU; bfloat16 on GPUs with tensor cores for it, float32 elsewhere.

    On CPUs float32 stays the choice: the small networks of clients ran no faster in bfloat16 (simulations/bench).

    Raises:
        SettingError: the configured device is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise SettingError("device", device, "no CUDA GPU is visible (in Ray, `resources.client_num_gpus` grants them)")
    elif device == "mps" and not torch.backends.mps.is_available():
        raise SettingError("device", device, "this machine has no MPS device")
    if precision == "auto":
        fast = device == "cuda" and torch.cuda.get_device_capability()[0] >= 8
        precision = "bfloat16" if fast else "float32"
    return Runtime(torch.device(device), getattr(torch, precision))


def available_cores() -> int:
    """The cores that this process may use, 16 at most: small networks gain nothing from more threads."""
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Run a block with `count` torch threads: results depend on their number in the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
