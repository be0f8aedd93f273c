"""What this machine has for a run, and what to change: `python -m simulations.doctor`.

Shows the device, cores, memory, free space, versions, and the ports that a SuperLink takes; each thing that stands in
the way of a run, or makes it slower than it need be, is a line of its own. The exit status is 1 if no run would work.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from collafuse_flwr.core.runtime import available_cores, choose_runtime
from collafuse_flwr.data.image_cache import cache_folder
from collafuse_flwr.data.settings import DataConfig
from simulations.cli import FAILED, command

PACKAGES = ("torch", "torchvision", "flwr", "ray", "diffusers", "hydra-core")
#: Of a SuperLink: for apps (ServerAppIo), for SuperNodes (Fleet), and for `flwr run` (Control).
PORTS = {9091: "ServerAppIo", 9092: "Fleet", 9093: "Control"}
GB = 1e9
#: What the default run, with Ray, takes at most.
NEEDED_MEMORY, NEEDED_SPACE = 4 * GB, 1 * GB


@dataclass(frozen=True)
class Finding:
    """A line about the machine; `advice` says what to change, if anything; `stops` that no run works before that."""

    what: str
    value: str
    advice: str = ""
    stops: bool = False


def examine() -> list[Finding]:
    """Everything that is known of the machine."""
    looks: list[Callable[[], list[Finding]]] = [_versions, _device, _cores, _memory, _space, _ports]
    return [finding for look in looks for finding in look()]


def _versions() -> list[Finding]:
    python = Finding("python", f"{platform.python_version()} ({sys.executable})")
    return [python, *(Finding(name, version(name)) for name in PACKAGES)]


def _device() -> list[Finding]:
    import torch  # noqa: PLC0415 - seconds, which --help does not need

    runtime = choose_runtime()
    if runtime.device.type == "cuda":
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        free, total = torch.cuda.mem_get_info()
        advice = "" if free > total / 2 else "others use most of its memory: choose one by CUDA_VISIBLE_DEVICES"
        return [Finding("device", f"{', '.join(names)}; {free / GB:.0f} of {total / GB:.0f} GB free", advice)]
    advice = ""
    if (
        shutil.which("nvidia-smi")
        and not subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode
    ):
        advice = f"there is a GPU that torch {torch.__version__} cannot use: install a build of torch for its driver"
    return [Finding("device", f"{runtime.device.type} ({torch.backends.cpu.get_cpu_capability()})", advice)]


def _cores() -> list[Finding]:
    cores, load = available_cores(), os.getloadavg()[0]
    advice = f"other work takes {load:.1f} of them: runs are slower" if load > cores / 2 else ""
    return [Finding("cores", f"{cores} that a run may use", advice)]


def _memory() -> list[Finding]:
    memory = psutil.virtual_memory()
    short = memory.available < NEEDED_MEMORY
    advice = f"less than {NEEDED_MEMORY / GB:.0f} GB: take runner=local, or fewer clients at a time" if short else ""
    return [Finding("memory", f"{memory.available / GB:.1f} of {memory.total / GB:.1f} GB free", advice)]


def _space() -> list[Finding]:
    """Free space where runs and decoded images go."""
    findings = []
    for what, folder in (("runs", Path.cwd()), ("decoded images", cache_folder(DataConfig()))):
        there = next(path for path in (folder, *folder.parents) if path.is_dir())
        free, writable = shutil.disk_usage(there).free, os.access(there, os.W_OK)
        advice = "" if free > NEEDED_SPACE else f"less than {NEEDED_SPACE / GB:.0f} GB: choose another folder"
        if not writable:
            setting = "output" if what == "runs" else "data.cache_path"
            advice = f"it cannot be written to: choose another by `{setting}`"
        findings.append(Finding(what, f"{folder}, {free / GB:.0f} GB free", advice, stops=not writable))
    return findings


def _ports() -> list[Finding]:
    taken = [f"{port} ({name})" for port, name in PORTS.items() if not _is_free(port)]
    advice = f"{', '.join(taken)} taken: a SuperLink here needs others (docs/deployment.md)" if taken else ""
    return [Finding("ports", f"{', '.join(map(str, PORTS))} of a SuperLink", advice)]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True


def show(findings: list[Finding], console: Console) -> None:
    """A table of everything, and a line for each thing to change."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for finding in findings:
        table.add_row("!" if finding.advice else " ", finding.what, finding.value)
    console.print(table)
    for finding in findings:
        if finding.advice:
            console.print(f"! {finding.what}: {finding.advice}", highlight=False, soft_wrap=True)
    if not any(finding.advice for finding in findings):
        console.print("Nothing to change.")


def _act(_: list[str]) -> int:
    findings = examine()
    show(findings, Console())
    return FAILED if any(finding.stops for finding in findings) else 0


main = command(_act, usage=__doc__ or "")

if __name__ == "__main__":
    sys.exit(main())
