"""What a client may use of the machine, checked before anything is started."""

from __future__ import annotations

import os

import torch
from ray._private.utils import get_num_cpus

from collafuse_flwr.config.run import ResourcesConfig
from collafuse_flwr.core.errors import SettingError


def machine() -> tuple[int, int]:
    """The CPUs and GPUs that this process may use."""
    return _cpus(), torch.cuda.device_count()


def check_resources(resources: ResourcesConfig) -> None:
    """Refuse what leaves no room for a single client.

    Raises:
        SettingError: a client asks for more than there is, or for a fraction above one, which Ray cannot give.
    """
    cpus, gpus = machine()
    for name, wanted, there in (
        ("resources.client_num_cpus", resources.client_num_cpus, cpus),
        ("resources.client_num_gpus", resources.client_num_gpus, gpus),
    ):
        if wanted > there:
            raise SettingError(name, wanted, f"at most {there}, which is what this machine has")
        if wanted > 1 and wanted != int(wanted):
            raise SettingError(name, wanted, "a whole number, or a fraction below 1")


def _cpus() -> int:
    """CPUs by affinity and, in a container, by its quota, which Ray knows how to read."""
    quota = int(get_num_cpus(override_docker_cpu_warning=True))
    return min(quota, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else quota
