"""Whole runs of clients that choose where they take over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from collafuse_flwr.core.tensor_io import read_tensors
from collafuse_flwr.diffusion.pipeline import CollaFusePipeline
from collafuse_flwr.runs.loaded_run import FinishedRun
from collafuse_flwr.runs.run_layout import RunLayout
from simulations.runners.local import run_local
from tests.generating import alone, generating, own, pictures
from tests.message_guard import Tap, guard
from tests.small_runs import connect, federate, metrics, run_strategy, small

BEST: dict[str, Any] = {"sampling__handover": "best", "client__range": "all", "model": "nano"}
CHOICE = "collafuse_flwr.client.diffusion_base.choose_handover"


def samples(folder: Path, client: int) -> Tensor:
    return read_tensors(RunLayout(folder).client(client).samples)[0]["images"]


def chosen(folder: Path, client: int) -> int:
    return int(json.loads(RunLayout(folder).client(client).trained.read_text())["handover_step"])


def test_a_client_that_takes_over_at_once_is_one_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It trains and samples as it would without a federation: what it can always go back to."""
    given = {"client__update_budget": "full", "upload__share_labels": False, "model": "nano"}
    monkeypatch.setattr(CHOICE, lambda setup, *_: setup.schedule.timesteps)
    federate(small(tmp_path / "best", **BEST | given))
    run_strategy(small(tmp_path / "alone", **given, strategy="local", sampling__server_steps=0))
    for client in range(3):
        assert torch.equal(samples(tmp_path / "best", client), samples(tmp_path / "alone", client))


def test_a_client_that_takes_over_at_its_cut_is_one_that_is_handed_samples_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backbone is the same wherever it runs."""
    monkeypatch.setattr(CHOICE, lambda setup, cut, *_: cut)
    federate(small(tmp_path / "best", **BEST))
    federate(small(tmp_path / "fixed", client__range="all", model="nano"))
    for client in range(3):
        assert torch.allclose(samples(tmp_path / "best", client), samples(tmp_path / "fixed", client), atol=1e-6)


@pytest.mark.parametrize("strategy", ["collafuse", "hybrid", "pfdm", "clean_server"])
def test_only_the_backbone_travels_besides_and_nothing_tells_the_choice(
    tmp_path: Path, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    for step in (3, 20):
        monkeypatch.setattr(CHOICE, lambda *_, step=step: step)
        folder, tap = tmp_path / str(step), Tap()
        config = small(folder, **BEST, strategy=strategy, num_rounds=1)
        run_strategy(config, connect(config, tap.app))
        guard(config, tap.crossed)
        assert [chosen(folder, client) for client in range(3)] == [step] * 3
        (row,) = metrics(folder)
        rows.append({c: {k: v for k, v in e.items() if k != "kernel_distance"} for c, e in row["evaluation"].items()})
    assert rows[0] == rows[1]


def test_each_client_chooses_for_itself_and_the_run_goes_by_it(tmp_path: Path) -> None:
    """The pipeline of its folder, generating on its own disk, and `simulations.generate`."""
    folder = tmp_path / "run"
    run_local(small(folder, **BEST, num_rounds=1, evaluation__tstr="none", server__update_multiplier=8.0))
    steps = [chosen(folder, client) for client in range(3)]
    assert all(0 <= step <= 20 for step in steps)
    run_local(generating(folder, 4))
    for client in range(3):
        made = pictures(own(folder, client))
        assert len(made) == 5
        assert made == alone(folder, tmp_path / str(client), f"client={client}", "num_images=4")
        pipeline = CollaFusePipeline.from_pretrained(folder / "clients" / str(client))
        assert pipeline.config.cut_step == steps[client]


def test_one_class_where_the_backbone_knows_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The class is the client's network's alone; the backbone was given it, and fell over it."""
    monkeypatch.setattr(CHOICE, lambda setup, cut, *_: cut)
    folder = tmp_path / "run"
    given = {"num_supernodes": 2, "num_rounds": 1, "evaluation__tstr": "none", "upload__share_labels": False}
    run_local(small(folder, **BEST, **given))
    label = int(read_tensors(RunLayout(folder).client(1).samples)[0]["labels"].max())
    made = alone(folder, tmp_path / "images", "client=1", "num_images=3", f"label={label}")
    assert made.keys() == {*(f"{i}-class-{label}.png" for i in range(3)), "grid.png"}


@pytest.mark.parametrize("step", [0, 6, 13, 20])
def test_the_pipeline_makes_the_images_of_the_choice(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CHOICE, lambda *_: step)
    folder = tmp_path / "run"
    run_local(
        small(folder, **BEST, num_supernodes=2, num_rounds=1, evaluation__tstr="none", upload__share_labels=False)
    )
    finished, pipeline = FinishedRun.of(folder), CollaFusePipeline.from_pretrained(folder / "clients" / "1")
    setup, labels = finished.setup, torch.tensor([1, 2])
    x = torch.randn((2, 1, 8, 8), generator=torch.Generator().manual_seed(5))
    above, below = setup.grids(step)
    assert finished.backbone is not None
    x = setup.sample(finished.backbone, x, above, None, ("server",))
    x = setup.sample(finished.denoiser(1), x, below, labels, ("client",))
    # The backbone alone knows no classes.
    wanted = labels if step else None
    made = pipeline(2, wanted, torch.Generator().manual_seed(5), output_type="pt").images
    assert torch.allclose(made, (x.clamp(-1, 1) + 1) / 2, atol=1e-4)
