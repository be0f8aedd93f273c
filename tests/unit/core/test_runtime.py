"""Device, precision and threads: what is configured, or the best there is, or a reason."""

from __future__ import annotations

import os

import pytest
import torch

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.runtime import Runtime, available_cores, choose_runtime, threads


def machine(
    monkeypatch: pytest.MonkeyPatch, *, cuda: bool = False, mps: bool = False, capability: tuple[int, int] = (8, 0)
) -> None:
    """Pretend to run on such a machine."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "device"),
    [(False, False, "cpu"), (False, True, "mps"), (True, False, "cuda"), (True, True, "cuda")],
)
def test_auto_takes_the_fastest_device(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, device: str) -> None:
    machine(monkeypatch, cuda=cuda, mps=mps)
    assert choose_runtime().device == torch.device(device)
    assert choose_runtime("cpu").device == torch.device("cpu")


@pytest.mark.parametrize(
    ("cuda", "capability", "dtype"),
    [
        (False, (0, 0), torch.float32),
        (True, (7, 5), torch.float32),
        (True, (8, 0), torch.bfloat16),
        (True, (9, 0), torch.bfloat16),
    ],
)
def test_auto_is_bfloat16_only_where_the_card_has_tensor_cores_for_it(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    machine(monkeypatch, cuda=cuda, capability=capability)
    assert choose_runtime().dtype is dtype
    assert choose_runtime("cpu").dtype is torch.float32


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_configured_precision_is_used_everywhere(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    machine(monkeypatch, cuda=True, capability=(6, 0))
    for device in ("cpu", "cuda"):
        assert choose_runtime(device, precision).dtype is getattr(torch, precision)


@pytest.mark.parametrize(("device", "reason"), [("cuda", "no CUDA GPU"), ("mps", "no MPS device")])
def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, device: str, reason: str) -> None:
    machine(monkeypatch)
    with pytest.raises(SettingError, match=rf"^`device` = '{device}' is not allowed: .*{reason}"):
        choose_runtime(device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_networks_run_in_the_precision_and_nothing_outside_does(dtype: torch.dtype) -> None:
    linear, x = torch.nn.Linear(4, 4), torch.ones(2, 4)
    with Runtime(torch.device("cpu"), dtype).autocast():
        assert linear(x).dtype is dtype
    assert linear(x).dtype is torch.float32
    assert linear.weight.dtype is torch.float32


def test_threads_are_given_back_even_after_an_error() -> None:
    before = torch.get_num_threads()
    with threads(before + 2):
        assert torch.get_num_threads() == before + 2
        with threads(1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == before + 2
    with pytest.raises(RuntimeError, match="gone wrong"), threads(before + 1):
        raise RuntimeError("gone wrong")
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("allowed", "cores"), [(1, 1), (3, 3), (16, 16), (64, 16)])
def test_the_cores_are_those_of_this_process_up_to_16(
    monkeypatch: pytest.MonkeyPatch, allowed: int, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    assert available_cores() == cores


@pytest.mark.parametrize(("count", "cores"), [(None, 1), (8, 8), (128, 16)])
def test_without_an_affinity_all_cores_count(monkeypatch: pytest.MonkeyPatch, count: int | None, cores: int) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert available_cores() == cores
