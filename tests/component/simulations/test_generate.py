"""`python -m simulations.generate`: images of a finished run, by server and client together."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from collafuse_flwr.data.federated import federation_data
from collafuse_flwr.runs.run_dir import read_config
from simulations import generate, runners
from tests.commands import refused
from tests.small_runs import small


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    return runners.run(small(folder, runner="local", cut__client_ratios=[0, 0.3, 1], num_rounds=1)).folder


def call(*arguments: str) -> int:
    """The command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["generate", *arguments])
        return generate.main()


def classes(run: Path, client: int) -> set[int]:
    """The classes among the run's own samples of a client."""
    return set(load_file(run / "clients" / str(client) / "samples.safetensors")["labels"].tolist())


def uploaded(run: Path, client: int) -> set[int]:
    """The classes of a client's images."""
    config = read_config(run)
    data = federation_data(config.data, config.run.num_supernodes, config.run.seed)
    return set(data.client(client).train.labels.tolist())


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


@pytest.mark.parametrize("client", [0, 1, 2], ids=["server alone", "both", "client alone"])
def test_each_image_is_a_file_and_all_are_in_a_grid(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], client: int
) -> None:
    output = tmp_path / "images"
    assert call(f"run={finished}", f"client={client}", "num_images=11", f"output={output}") == 0
    assert capsys.readouterr().out == f"Images and their grid are in {output}\n"
    made = sorted(name for name in pictures(output) if name != "grid.png")
    assert [name.partition("-")[0] for name in made] == [f"{i:02d}" for i in range(11)]
    # The backbone takes them from the uploads; a client alone has them from its own samples.
    held = uploaded(finished, client) if client < 2 else classes(finished, client)
    assert {int(Path(name).stem.rpartition("-")[2]) for name in made} <= held
    with Image.open(output / made[0]) as image, Image.open(output / "grid.png") as grid:
        assert image.size == (8, 8)
        # Two rows of at most ten images, each enlarged to 48 pixels, with a border of two.
        assert grid.size == (10 * 50 + 2, 2 * 50 + 2)
    described = json.loads((output / "generated.json").read_text())
    assert (described["client"], described["cut_step"]) == (client, (0, 6, 20)[client])


def test_the_seed_decides_every_bit(finished: Path, tmp_path: Path) -> None:
    made = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert call(f"run={finished}", "client=1", "num_images=6", f"seed={seed}", f"output={tmp_path / name}") == 0
        made.append(pictures(tmp_path / name))
    first, again, other = made
    assert first == again
    assert first["grid.png"] != other["grid.png"]
    assert not set(first.values()) & set(other.values())


def test_one_class_only(finished: Path, tmp_path: Path) -> None:
    label = max(classes(finished, 1))
    assert call(f"run={finished}", "client=1", "num_images=3", f"label={label}", f"output={tmp_path}") == 0
    assert pictures(tmp_path).keys() == {*(f"{i}-class-{label}.png" for i in range(3)), "grid.png"}


def test_by_default_images_go_into_the_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(f"run={finished}", "client=1", "num_images=2") == 0
    assert len(pictures(finished / "generated" / "client-1")) == 3
    # They are not overwritten.
    capsys.readouterr()
    assert call(f"run={finished}", "client=1", "num_images=2") == 2
    assert capsys.readouterr().err.startswith("error: `output` = ")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("client=3", "`client` = 3 is not allowed: 0..2"),
        ("client=-1", "`client` = -1 is not allowed: a whole number >= 0"),
        ("client=first", "`client` = 'first' is not allowed"),
        ("label=10", "`label` = 10 is not allowed: one of "),
        ("label=-2", "`label` = -2 is not allowed"),
        ("num_images=0", "`num_images` = 0 is not allowed: a whole number >= 1"),
        ("num_images=1.5", "`num_images` = 1.5 is not allowed"),
        ("seed=-1", "`seed` = -1 is not allowed"),
        ("run=", "`run` = '' is not allowed: the folder of a finished run"),
        ("run=/absent", "`run` = '/absent' is not allowed"),
        ("num_image=2", "`num_image` is not a setting; did you mean `num_images`"),
    ],
)
def test_a_mistake_is_refused_in_one_line(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str, message: str
) -> None:
    output = tmp_path / "images"
    assert call(f"run={finished}", "client=1", f"output={output}", wrong) == 2
    assert message in refused(capsys)
    assert not output.exists()


def test_an_output_that_holds_something_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.png").touch()
    assert call(f"run={finished}", "client=1", f"output={tmp_path}") == 2
    assert f"`output` = '{tmp_path}' is not allowed: a new or empty folder" in refused(capsys)
    (tmp_path / "mine.png").unlink()
    file = tmp_path / "file"
    file.touch()
    assert call(f"run={finished}", "client=1", f"output={file}") == 2
    assert f"`output` = '{file}' is not allowed" in refused(capsys)


@pytest.mark.parametrize("missing", ["config.json", "server/backbone/unet", "clients/1/denoiser/unet"])
def test_a_run_that_is_not_whole_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    run = tmp_path / "run"
    for path in finished.rglob("*"):
        relative = path.relative_to(finished)
        if path.is_file() and not str(relative).startswith(missing):
            (run / relative).parent.mkdir(parents=True, exist_ok=True)
            (run / relative).hardlink_to(path)
    assert call(f"run={run}", "client=1", f"output={tmp_path / 'images'}") == 2
    assert "`run` = " in refused(capsys)
    assert not (tmp_path / "images").exists()
