"""`python -m simulations.advise`: where collaboration would pay, from small runs."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from collafuse_flwr.evaluation.gains import ClientGains
from simulations import advise, run
from simulations.advice_map import AdviceCell, advice, print_map, read_cells
from simulations.advise import AdviceRequest
from simulations.cli import register_schema
from tests.commands import refused
from tests.component.simulations.report.fakes import CLIENTS, fake, settings

TINY = [
    *("num_supernodes=2", "num_rounds=1", "train.local_epochs=1", "diffusion.timesteps=20", "sampling.steps=2"),
    *("evaluation.num_samples=8", "resources.server_threads=1", "quiet=true"),
]


def ask(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["advise", *arguments])
    return advise.main()


def in_this_process(module: str, *arguments: str) -> int:
    """What `simulations.sweep` runs, each run of it once."""
    assert module == "simulations.sweep"
    configs = {settings.run.strategy: settings for settings in map(advise.first_config, each_of(arguments))}
    assert configs.keys() == {"collafuse", "local"}
    for name, config in configs.items():
        run.run(replace(config, run=replace(config.run, output=str(Path(config.run.output) / name))))
    return 0


def each_of(arguments: tuple[str, ...]) -> list[list[str]]:
    given = [argument for argument in arguments if not argument.startswith("strategy=")]
    return [[*given, f"strategy={name}"] for name in ("collafuse", "local")]


def cell(images: int, cut: float, better: int, reid: float, clients: int = 4) -> AdviceCell:
    return AdviceCell(images, cut, 4.0, 5.0, reid, ClientGains(better, clients, 0.8))


def test_a_row_is_read_from_its_runs(tmp_path: Path) -> None:
    """By the formula of the runs, a cut c costs 4 c^2 beside 4 alone: all clients gain; 1 - c are re-identified."""
    for seed in (0, 1):
        for cut in (0.25, 0.5):
            fake(tmp_path, cut_ratio=cut, seed=seed)
        fake(tmp_path, "local", seed=seed)
    (first, second) = read_cells(tmp_path, 20, (0.25, 0.5, 0.75))
    assert (first.images, first.cut, second.cut) == (20, 0.25, 0.5)
    assert (first.reid, second.reid) == (0.75, 0.5)
    assert first.gains == ClientGains.of(
        [(1.75 + n + 0.2 * s, 5.5 + n + 0.2 * s) for s in (0, 1) for n in range(CLIENTS)]
    )
    assert first.fd == pytest.approx(1.75 + 0.05)
    assert first.fd_alone == pytest.approx(5.5 + 0.05)


def test_a_row_without_runs_alone_is_none(tmp_path: Path) -> None:
    assert read_cells(tmp_path, 20, (0.5,)) == []
    fake(tmp_path, cut_ratio=0.5)
    assert read_cells(tmp_path, 20, (0.5,)) == []


def test_what_is_said_is_what_pays_and_hides() -> None:
    both = advice([cell(20, 0.3, 4, 0.9), cell(20, 0.7, 3, 0.1), cell(20, 0.9, 2, 0.0)], 0.1)
    assert both == "Collaboration pays for most clients, at no more than 10% re-identified: with 20 images at c = 0.7."
    never = advice([cell(20, 0.3, 4, 0.9), cell(60, 0.3, 4, 0.8), cell(20, 0.9, 1, 0.05)], 0.1)
    assert never.endswith(
        "It pays with 20 images at c = 0.3; with 60 images at c = 0.3. It hides with 20 images at c = 0.9."
    )
    assert advice([cell(20, 0.3, 1, 0.9)], 0.1).endswith("It pays nowhere. It hides nowhere.")


def test_with_enough_clients_most_gain_only_beyond_doubt() -> None:
    pairs = [(1.0, 2.0)] * 11 + [(2.0, 1.0)] * 9
    assert not AdviceCell(20, 0.5, 1.0, 1.0, 0.0, ClientGains.of(pairs)).pays
    assert AdviceCell(20, 0.5, 1.0, 1.0, 0.0, ClientGains.of([(1.0, 2.0)] * 20)).pays


def test_a_hole_in_the_map_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    print_map([cell(20, 0.3, 3, 0.25), cell(60, 0.7, 1, 0.5)], Console(width=100, highlight=False))
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()[:2] in {"20", "60"}]
    assert rows == [["20", "5.00", "0.80", "(3/4),", "25%", "-"], ["60", "5.00", "-", "0.80", "(1/4),", "50%"]]


def test_a_map_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(advise, "run_module", in_this_process)
    assert ask(monkeypatch, "images=24", "cuts=0.4", f"output={tmp_path}/map", *TINY) == 0
    result = json.loads((tmp_path / "map" / "advice.json").read_text())
    (only,) = result["cells"]
    assert (only["images"], only["cut"], only["gains"]["clients"]) == (24, 0.4, 2)
    summaries = {
        name: json.loads((tmp_path / "map" / "images-24" / name / "summary.json").read_text())
        for name in ("collafuse", "local")
    }
    assert only["fd"] == summaries["collafuse"]["pooled"]["fd"]
    assert only["fd_alone"] == summaries["local"]["pooled"]["fd"]
    images = [client["num_images"] for client in summaries["local"]["clients"]]
    assert sum(images) / 2 == pytest.approx(24, abs=1)
    # Alone a client has as many updates as clients and server together.
    total = [sum(c["image_updates"] for c in s["clients"]) + s["server"]["image_updates"] for s in summaries.values()]
    assert abs(total[0] - total[1]) <= 3 * 32
    with Image.open(tmp_path / "map" / "advice.png") as picture:
        assert min(picture.size) > 200
    assert result["advice"] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["images=many"], "`images` = 'many' is not allowed: whole numbers >= 1, with commas"),
        (["images=0,20"], "`images` = '0,20' is not allowed: whole numbers >= 1"),
        (["images=20,900"], "`images` = 900 is not allowed: at most 14"),
        (["cuts=0.5,1"], "`cuts` = '0.5,1' is not allowed: numbers between 0 and 1"),
        (["max_reid=2"], "`max_reid` = '2' is not allowed: a share from 0 to 1"),
        (["cut_ratio=0.5"], "`cut_ratio` = '0.5' is not allowed: given as `cuts`"),
        (["data.max_images=50"], "`data.max_images` = '50' is not allowed: given as `images`"),
        (["strategy=fedavg"], "`strategy` = 'fedavg' is not allowed: one whose clients have a cut"),
        (["cut_rato=1"], "`cut_rato`: no such setting; did you mean `cut_ratio`"),
        (["digits"], "`digits` is not SETTING=VALUE"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    reason: str,
) -> None:
    monkeypatch.setattr(advise, "run_module", lambda *_: pytest.fail("it ran"))
    assert ask(monkeypatch, *arguments, f"output={tmp_path}/map") == 2
    assert reason in refused(capsys)
    assert list(tmp_path.iterdir()) == []


def test_the_arguments_of_a_row_are_those_of_a_sweep() -> None:
    register_schema()
    request = AdviceRequest.of(["strategy=hybrid", "cuts=0.6,0.2", "seed=0,1", "output=there"])
    arguments = request.sweep(20)
    assert {"strategy=hybrid,local", "cut_ratio=0.2,0.6", "data.max_images=250", "seed=0,1"} <= set(arguments)
    assert request.folder(20) == Path("there/images-20").absolute()
    assert settings().data.holdout_fraction == 0.2
