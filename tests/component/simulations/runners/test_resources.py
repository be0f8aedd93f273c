from __future__ import annotations

import pytest

from collafuse_flwr.config.run import ResourcesConfig
from collafuse_flwr.core.errors import SettingError
from simulations.runners import resources


@pytest.fixture(autouse=True)
def machine_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "machine", lambda: (4, 2))


@pytest.mark.parametrize(("cpus", "gpus"), [(1.0, 0.0), (4.0, 2.0), (0.5, 0.25)])
def test_what_fits_passes(cpus: float, gpus: float) -> None:
    resources.check_resources(ResourcesConfig(client_num_cpus=cpus, client_num_gpus=gpus))


@pytest.mark.parametrize(
    ("cpus", "gpus", "message"),
    [
        (5.0, 0.0, "`resources.client_num_cpus` = 5.0 is not allowed: at most 4"),
        (1.0, 3.0, "`resources.client_num_gpus` = 3.0 is not allowed: at most 2"),
        (1.5, 0.0, "`resources.client_num_cpus` = 1.5 is not allowed: a whole number, or a fraction below 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(cpus: float, gpus: float, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        resources.check_resources(ResourcesConfig(client_num_cpus=cpus, client_num_gpus=gpus))


@pytest.mark.parametrize(("quota", "affinity", "cpus"), [(3.0, {0, 5}, 2), (1.0, {0, 1, 2, 3}, 1), (2.5, {0, 1, 2}, 2)])
def test_cpus_are_the_smaller_of_quota_and_affinity(
    monkeypatch: pytest.MonkeyPatch, quota: float, affinity: set[int], cpus: int
) -> None:
    monkeypatch.setattr(resources, "get_num_cpus", lambda **_: quota)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: affinity, raising=False)
    assert resources._cpus() == cpus
