"""`import collafuse_flwr`: light until it is used, and the same as the commands when it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from diffusers import DDPMPipeline
from flwr_datasets.visualization import plot_label_distributions
from huggingface_hub import ModelCard

import collafuse_flwr as cf
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.tensor_io import read_tensors
from collafuse_flwr.data.federated import federation_data
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.runs.loaded_run import FinishedRun
from simulations.model_card import HOLDER, SERVER
from tests.pages import fenced
from tests.small_runs import SMALL

QUICK = {"runner": "local", "model": "nano", "num_supernodes": 2, "num_rounds": 1, "data.max_images": 60}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run")
    run = cf.train(SMALL | QUICK, evaluation__num_samples=10, output=str(output))
    assert run.folder == output
    assert run.config.evaluation.num_samples == 10
    return output


def card_of(run: Any, folder: Path) -> str:
    return str(run.export(folder, client=1).joinpath("README.md").read_text())


def test_importing_it_imports_nothing_heavy_nor_what_is_above_it() -> None:
    heavy = ("torch", "ray", "flwr", "hydra", "numpy", "simulations", "strategies")
    program = f"""
import sys
import collafuse_flwr
assert {{"train", "load", "generate", "attack", "report", "CollaFusePipeline"}} <= set(dir(collafuse_flwr))
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
    # What a notebook shows of it.
    assert repr(run) == f"TrainedRun(folder={folder!r})"


@pytest.mark.parametrize("plot_type", ["bar", "heatmap"])
def test_flower_datasets_plots_who_holds_what(plot_type: str) -> None:
    partitioner = cf.partitioner(QUICK)
    figure, _, counts = plot_label_distributions(partitioner, label_name="label", plot_type=plot_type)
    plt.close(figure)
    data = federation_data(DataConfig(max_images=60), 2, 0)
    for client in range(2):
        own = data.client(client)
        labels = torch.cat([own.train.labels, own.held_out.labels])
        assert counts.loc[client].tolist() == labels.bincount(minlength=10).tolist()
        rows = partitioner.load_partition(client)
        assert torch.equal(data.images.labels[rows["index"]], torch.tensor(rows["label"]))
    with pytest.raises(SettingError, match="`partition`"):
        cf.partitioner(partition="by_lot")


def test_images_attacks_and_a_report_of_it(folder: Path, tmp_path: Path) -> None:
    run = cf.load(folder)
    label = int(read_tensors(folder / "clients" / "1" / "samples.safetensors")[0]["labels"][0])
    images = run.generate(client=1, label=label, n=3, output=str(tmp_path / "images"))
    assert len(list(images.glob(f"*class-{label}.png"))) == 3
    assert "was not attacked" in card_of(run, tmp_path / "before")
    attacked = run.attack(shadow_steps=2, inversions=0, attacks=["examples.attack.brightness:ATTACK"])
    results = json.loads((attacked / "attacks.json").read_text())
    assert (results["shadow_steps"], results["brightness_images"]) == (2, 500)
    page = run.report(tmp_path / "report")
    assert "brightness" in page.read_text()
    assert "`shadow_steps` = 2" in card_of(run, tmp_path / "after")


def test_a_pipeline_of_diffusers_makes_the_images_of_the_run(folder: Path) -> None:
    """To 1e-4 of values in [0, 1], by the networks where they are, with x_T from the same generator."""
    run, finished, labels = cf.load(folder), FinishedRun.of(folder), torch.tensor([3, 1, 4])
    pipeline = run.pipeline(client=1)
    assert isinstance(pipeline, cf.CollaFusePipeline)
    assert pipeline.config.class_names == [str(digit) for digit in range(10)]
    images = pipeline(3, labels, torch.Generator().manual_seed(0), output_type="pt").images
    x, cut, setup = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), 6, finished.setup
    assert finished.backbone is not None
    x = setup.sample(finished.backbone, x, setup.server_grid(cut), labels, ("server",))
    x = setup.sample(finished.denoiser(1), x, setup.client_grid(cut), labels, ("client",))
    torch.testing.assert_close(images, (x / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-4)
    assert len(list(folder.rglob("diffusion_pytorch_model.safetensors"))) == 3, "no network is there twice"


def test_the_pages_code_runs(folder: Path, tmp_path: Path) -> None:
    """All of docs/pipelines.md on this run, but what trains and attacks it."""
    blocks = [block.text for block in fenced((ROOT / "docs" / "pipelines.md").read_text()) if block.info == "python"]
    names: dict[str, Any] = {"run": cf.load(folder)}
    for block in blocks[1:]:
        code = (
            block.replace("runs/first", str(folder)).replace("clients/3", "clients/1").replace("client=3", "client=1")
        )
        exec(code.replace('"digits-client-3"', repr(str(tmp_path / "exported"))), names)
        if "pipeline" in names:
            assert len(names["images"]) in {10, 16}
    assert isinstance(names["pipeline"], DDPMPipeline)
    assert (tmp_path / "exported" / "README.md").is_file()


def test_nothing_of_a_client_is_in_the_servers_folder(folder: Path) -> None:
    indexes = [path.relative_to(folder).as_posix() for path in folder.rglob("model_index.json")]
    assert sorted(indexes) == [*(f"clients/{n}/model_index.json" for n in (0, 1)), "server/backbone/model_index.json"]
    assert "clients" not in (folder / "server" / "backbone" / "model_index.json").read_text()


def test_an_exported_folder_is_whole_and_claims_nothing_without_its_adversary(folder: Path, tmp_path: Path) -> None:
    run, exported = cf.load(folder), tmp_path / "hub"
    assert run.export(exported, client=1) == exported
    card = ModelCard.load(exported / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("collafuse_flwr", "unconditional-image-generation")
    row = run.summary["clients"][1]
    assert f"| {row['snr_db']:.1f} | - | {SERVER} |" in card.text
    assert f"epsilon {row['dp_epsilon']:.3g} at delta 1e-05, which guarantees nothing" in card.text
    assert f"without differential privacy: nothing is guaranteed for them against {HOLDER}" in card.text
    assert f"| FD | {row['fd']:.2f} |" in card.text
    claims = card.text[card.text.index("## Disclosure") : card.text.index("## Quality")]
    numbers = [line for line in claims.splitlines() if line.startswith("| ") and line[2] != "|"]
    assert len(numbers) >= 4
    assert all(line.endswith((f" {SERVER} |", f" {HOLDER} |")) for line in numbers)
    code = card.text.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        exec(code, names)
    assert len(names["images"]) == 4
    with pytest.raises(SettingError, match=r"^`output` = .* is not allowed: a new or empty folder"):
        run.export(exported, client=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub"]


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
    with pytest.raises(SettingError, match=r"^`client` = 2 is not allowed: 0..1, the clients of the run"):
        cf.load(folder).pipeline(client=2)
    with pytest.raises(SettingError, match=r"^`runs` = "):
        cf.report(tmp_path / "none", output=tmp_path)
