"""`import collafuse_flwr`: light until it is used, and the same as the commands when it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import collafuse_flwr as cf
from collafuse_flwr.core.errors import SettingError
from tests.small_runs import SMALL

QUICK = {"runner": "local", "model": "nano", "num_supernodes": 2, "num_rounds": 1, "data.max_images": 60}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run")
    run = cf.train(SMALL | QUICK, evaluation__tstr="none", output=str(output))
    assert run.folder == output
    assert run.config.evaluation.tstr == "none"
    return output


def test_importing_it_imports_nothing_heavy_nor_what_is_above_it() -> None:
    heavy = ("torch", "ray", "flwr", "hydra", "numpy", "simulations", "strategies")
    program = f"""
import sys
import collafuse_flwr
assert {{"train", "load", "generate", "attack", "report"}} <= set(dir(collafuse_flwr))
assert not hasattr(collafuse_flwr, "trian")
print([name for name in {heavy} if name in sys.modules])
collafuse_flwr.load
print("simulations" in sys.modules, "ray" in sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT)
    assert ended.stdout.splitlines() == ["[]", "True False"]


def test_every_function_is_documented() -> None:
    for name in cf.__all__:
        assert getattr(cf, name).__doc__


def test_a_finished_run_is_loaded(folder: Path) -> None:
    run = cf.load(str(folder))
    assert (run.folder, run.config.run.num_supernodes) == (folder, 2)
    assert [row["client"] for row in run.summary["clients"]] == [0, 1]


def test_images_attacks_and_a_report_of_it(folder: Path, tmp_path: Path) -> None:
    images = cf.generate(folder, client=1, num_images=3, output=str(tmp_path / "images"))
    assert len(list(images.glob("*class*.png"))) == 3
    attacked = cf.attack(folder, shadow_steps=2, inversions=0, attacks=["examples.attack.brightness:ATTACK"])
    results = json.loads((attacked / "attacks.json").read_text())
    assert (results["shadow_steps"], results["brightness_images"]) == (2, 500)
    page = cf.report(folder, output=tmp_path / "report")
    assert "brightness" in page.read_text()


def test_a_mistake_is_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"^`gan.widht` = 3 is not allowed: no such setting; did you mean `gan.wi"):
        cf.train(gan__widht=3)
    with pytest.raises(SettingError, match=r"is not allowed: .*"):
        cf.load(tmp_path)
    with pytest.raises(SettingError, match=r"^`shadow` = 1 is not allowed: no such setting of attack; it has run, "):
        cf.attack(folder, shadow=1)
    with pytest.raises(SettingError, match=r"^`attacks` = 'a:B' is not allowed: a list of package.module:ATTACK"):
        cf.attack(folder, attacks="a:B")
    with pytest.raises(SettingError, match=r"^`num_image` = 1 is not allowed: no such setting of generate; it has ru"):
        cf.generate(folder, num_image=1)
    with pytest.raises(SettingError, match=r"^`runs` = "):
        cf.report(tmp_path / "none", output=tmp_path)
