"""The split GAN computes the same, whichever process answers a phase of a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from simulations import runners
from simulations.runners.resources import machine
from tests.small_runs import GAN_OPTIONS, bytes_of, metrics, small

pytestmark = [
    # Ray opens sockets, files and processes that it leaves to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("ray_garbage"),
]

CPUS = machine()[0]


@pytest.mark.parametrize("options", [{}, GAN_OPTIONS], ids=["defaults", "every option"])
def test_a_split_gan_gives_the_same_bits_with_two_workers(tmp_path: Path, options: dict[str, Any]) -> None:
    """The phases of a batch come to either worker, and to one more often than to the other."""
    gan = {"strategy": "huscf_gan", "num_rounds": 1, "gan.width": 2, "gan.batch_size": 16, "train.local_epochs": 1.0}
    gan |= options
    folders = {
        runner: runners.run(
            small(
                tmp_path / runner,
                runner=runner,
                evaluation__tstr="none",
                split_gan__client_cuts="0010",
                data__max_images=90,
                resources__client_num_cpus=CPUS / 2,
                **gan,
            )
        ).folder
        for runner in ("local", "ray")
    }
    assert metrics(folders["local"]) == metrics(folders["ray"])
    ours, theirs = bytes_of(folders["local"]), bytes_of(folders["ray"])
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
