"""A GAN's run on two domains: every client is measured, and every domain; clusters are held against domains."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.runtime import threads
from collafuse_flwr.core.tensor_io import write_tensors
from collafuse_flwr.data.domains import client_domains
from collafuse_flwr.data.federated import federation_data
from collafuse_flwr.data.images import normalize
from collafuse_flwr.evaluation import classifier_cache
from collafuse_flwr.evaluation import evaluator as quality
from collafuse_flwr.evaluation.classifier import train_classifier
from collafuse_flwr.evaluation.tstr import train_synthetic_test_real
from collafuse_flwr.runs.cluster_report import clusters_by_round, draw_clusters
from collafuse_flwr.runs.console import print_summary
from collafuse_flwr.runs.history import History, RoundRecord
from collafuse_flwr.runs.run_dir import open_run
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.runs.summary import summarize_run

NAMES = ("digits 1", "digits 2")
#: Clients 0 and 2 have the first set; 1 and 3 the other.
CLUSTERS: tuple[dict[str, int], ...] = ({}, {"0": 0, "1": 0, "2": 0, "3": 0}, {"0": 0, "1": 4, "2": 0, "3": 4})


def settings(folder: Path, **more: Any) -> Config:
    flat: dict[str, Any] = {"strategy": "huscf_gan", "dataset": ["digits", "digits"], "partition": "by_domain"}
    flat |= {
        "data.merge_classes_by": "number",
        "num_supernodes": 4,
        "data.max_images": 240,
        "data.holdout_fraction": 0.5,
        "output": str(folder),
    }
    return Config.from_flat(flat | more)


def rounds_of(*clusters: dict[str, int]) -> list[RoundRecord]:
    rows = []
    for number, own in enumerate(clusters, start=1):
        work = {"loss": None, "steps": 1, "image_updates": 1, "seconds": 1.0, "flops": 1, "pool": 0}
        row = RoundRecord(number, 64, dict.fromkeys("0123", 100), dict.fromkeys("0123", 50))
        row.server = work | {"client_cuts": {"0": "0000", "1": "1110", "2": "0000", "3": "1111"}}
        row.server |= {"clusters": own} if own else {}
        rows.append(row)
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves whose clients of the first domain generate their training images, and the others noise."""
    folder = tmp_path_factory.mktemp("run")
    config = settings(folder)
    open_run(config, folder)
    data = federation_data(config.data, 4, 0)
    for client in range(4):
        own = data.client(client).train
        images = normalize(own.images)
        images = images if client % 2 == 0 else torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
        path = RunLayout(folder).client(client).folder
        path.mkdir(parents=True, exist_ok=True)
        write_tensors(path / "samples.safetensors", {"images": images, "labels": own.labels})
    (folder / "server").mkdir(exist_ok=True)
    write_tensors(folder / "server" / "hand_over.safetensors", {str(c): torch.zeros(4, 1, 8, 8) for c in range(4)})
    rows = rounds_of(*CLUSTERS)
    rows[-1].clients = {
        str(c): {"loss": 1.0, "steps": 1, "image_updates": 1, "seconds": 1.0, "flops": 1} for c in range(4)
    }
    History(folder, rows).write_metrics()
    return folder


@pytest.fixture(scope="module")
def summary(folder: Path) -> dict[str, Any]:
    with threads(1), pytest.MonkeyPatch.context() as patch:
        # A classifier of so few steps is for no other test.
        patch.setenv("XDG_CACHE_HOME", str(folder))
        for module, slow in ((classifier_cache, train_classifier), (quality, train_synthetic_test_real)):
            patch.setattr(module, slow.__name__, partial(slow, steps=40))
        return summarize_run(folder)


def test_every_client_and_domain_is_measured(summary: dict[str, Any]) -> None:
    for row in (summary["pooled"], *summary["clients"], *summary["domains"].values()):
        assert all(0 <= row[name] <= 1 for name in quality.UTILITY), row
        assert 1 <= row["score"] <= 10
        assert row["fd"] > 0
    assert [client["cuts"] for client in summary["clients"]] == ["0000", "1110", "0000", "1111"]
    assert set(summary["domains"]) == set(NAMES)


def test_a_domain_is_its_clients_together(summary: dict[str, Any]) -> None:
    """Samples that are real images are worth more than noise, and nearer."""
    good, bad = (summary["domains"][name] for name in NAMES)
    clients = summary["clients"]
    assert good["accuracy"] > bad["accuracy"] + 0.3
    assert good["fd"] < bad["fd"]
    assert good["score"] > bad["score"]
    for own, members in ((good, clients[::2]), (bad, clients[1::2])):
        assert own["num_clients"] == 2
        assert own["num_samples"] == sum(client["num_samples"] for client in members)
        assert own["accuracy_worst"] == min(client["accuracy"] for client in members)
        assert own["accuracy_mean"] == pytest.approx(sum(client["accuracy"] for client in members) / 2)
        assert own["num_held_out"] == sum(client["num_held_out"] for client in members)


def test_a_client_is_tested_on_the_held_out_images_of_its_domain(folder: Path, summary: dict[str, Any]) -> None:
    """More of them than its own, on which its TSTR is."""
    data = federation_data(settings(folder).data, 4, 0)
    held_out = [sum(len(data.partitions[c].held_out) for c in own) for own in ((0, 2), (1, 3))]
    for client in summary["clients"]:
        tested = held_out[client["client"] % 2]
        assert client["accuracy"] * tested == pytest.approx(round(client["accuracy"] * tested), abs=1e-6)
        assert client["tstr"] * client["num_held_out"] == pytest.approx(
            round(client["tstr"] * client["num_held_out"]), abs=1e-6
        )


def test_clusters_are_held_against_domains(summary: dict[str, Any]) -> None:
    assert summary["clusters"] == [
        {"round": 2, "clusters": 1, "agreement": 0.0},
        {"round": 3, "clusters": 2, "agreement": 1.0},
    ]


def test_the_pictures_are_there(folder: Path, summary: dict[str, Any]) -> None:
    names = {path.name for path in (folder / "pictures").iterdir()}
    assert names >= {"domains.png", "domain-digits-1.png", "domain-digits-2.png", "clusters.png"}


def test_the_terminal_shows_domains_and_cuts_and_nothing_of_diffusion(folder: Path, summary: dict[str, Any]) -> None:
    console = Console(file=io.StringIO(), width=80, highlight=False)
    print_summary(summary, folder, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert not any(word in text for word in ("SNR", "bits", "re-id"))
    rows = [line.split() for line in text.splitlines()]
    heading = ["domain", "accuracy", "worst", "precision", "recall", "F1", "FPR", "FD", "score"]
    assert heading in rows
    for name in NAMES:
        own = summary["domains"][name]
        shown = [f"{100 * own[key]:.2f}" for key in ("accuracy", "accuracy_worst", "precision", "recall", "f1", "fpr")]
        assert [*name.split(), *shown, f"{own['fd']:.2f}", f"{own['score']:.2f}"] in rows
    assert ["1", "50", "1110"] in [row[:3] for row in rows]
    assert max(map(len, text.splitlines()[:-1])) <= 80


def test_a_partition_by_domains_names_each_clients_domain(tmp_path: Path) -> None:
    config = settings(tmp_path)
    assert client_domains(config.data, federation_data(config.data, 4, 0)) == {
        0: NAMES[0],
        1: NAMES[1],
        2: NAMES[0],
        3: NAMES[1],
    }
    mixed = settings(tmp_path, partition="iid")
    assert client_domains(mixed.data, federation_data(mixed.data, 4, 0)) == {}


def test_clusters_have_no_agreement_without_domains(tmp_path: Path) -> None:
    rounds = [{"round": 7, "server": {"clusters": {"0": 3, "5": 1}}}, {"round": 8, "server": {}}]
    assert clusters_by_round(rounds, {}) == [{"round": 7, "clusters": 2, "agreement": None}]
    assert clusters_by_round(rounds[1:], {}) == []
    draw_clusters(rounds, {}, tmp_path / "clusters.png")
    with Image.open(tmp_path / "clusters.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24) or []}
    assert {(214, 39, 40), (255, 127, 14)} <= colours, "clusters 3 and 1 in matplotlib's red and orange"
