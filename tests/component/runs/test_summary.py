"""The summary of a small run holds what it promises, in strict JSON, and is legible on a narrow terminal."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message
from rich.console import Console
from safetensors.torch import load_file

from collafuse_flwr.client_app import app as client_app
from collafuse_flwr.core.runtime import threads
from collafuse_flwr.data.federated import federation_data
from collafuse_flwr.evaluation.evaluator import SampleEvaluator, Samples
from collafuse_flwr.privacy.leakage_bounds import snr_db
from collafuse_flwr.runs.console import print_summary
from collafuse_flwr.runs.run_dir import open_run, read_config
from collafuse_flwr.runs.summary import summarize_run
from collafuse_flwr.setup.diffusion import diffusion_setup
from tests.small_runs import connect, federate, small, spoiled
from tests.strict_json import plain, strict

MEASURED = ("fd", "tstr", "snr_db", "bits", "bytes_up", "bytes_down", "client_flops", "client_seconds")


def spoil(message: Message, context: Context) -> Message:
    """Client 1 fails in round 1 and sends what does not fit in round 2."""
    if int(message.content.config_records["config"]["round"]) == 1:  # type: ignore[arg-type]
        raise RuntimeError("the [disk] is full")
    reply = client_app(message, context)
    reply.content["more"] = reply.content["metrics"]
    return reply


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three clients, the last of which does everything itself."""
    folder = tmp_path_factory.mktemp("run")
    measured = {"evaluation.num_samples": 40, "evaluation.tstr": "clients"}
    config = small(folder, **measured, cut__client_ratios=[0.3, 0.2, 1], num_rounds=3)
    open_run(config, folder)
    federate(config, connect(config, spoiled(1, spoil, (1, 2))))
    return folder


@pytest.fixture(scope="module")
def summary(folder: Path) -> dict[str, Any]:
    with threads(1):
        return summarize_run(folder)


def test_what_was_promised_is_there(summary: dict[str, Any]) -> None:
    for row in (summary["pooled"], *summary["clients"]):
        assert all(isinstance(row[name], (int, float)) for name in MEASURED), row
    assert {"flops", "seconds"} <= summary["server"].keys()
    assert [client["client"] for client in summary["clients"]] == [0, 1, 2]
    assert {"fd_real", "fd_train", "tstr_real"} <= summary["pooled"].keys()


def test_figures_have_their_ranges(summary: dict[str, Any]) -> None:
    """Real images are nearer to real ones than samples of so short a run, and teach a classifier more."""
    for row in (summary["pooled"], *summary["clients"]):
        assert row["fd"] > 0
        assert 0 <= row["tstr"] <= 1
    pooled = summary["pooled"]
    assert pooled["fd_real"] < pooled["fd"]
    assert pooled["tstr_real"] > pooled["tstr"]
    assert pooled["tstr_real"] > 0.8
    assert summary["server"]["flops"] > 0
    assert summary["server"]["seconds"] > 0


def test_disclosure_is_that_of_each_clients_cut(folder: Path, summary: dict[str, Any]) -> None:
    """The client that uploads nothing discloses nothing; of all, the worst is what counts."""
    config = small(folder, cut__client_ratios=[0.3, 0.2, 1])
    alpha_bar = diffusion_setup(config).schedule.alpha_bar
    clients = summary["clients"]
    assert [client["cut_step"] for client in clients] == [6, 4, 20]
    assert [client["snr_db"] for client in clients[:2]] == [pytest.approx(snr_db(float(alpha_bar[k]))) for k in (6, 4)]
    assert clients[2]["snr_db"] == -math.inf
    assert (clients[2]["bits"], clients[2]["releases"]) == (0, 0)
    assert clients[1]["bits"] > 0
    assert [client["reid"] is None for client in clients] == [False, False, True]
    assert summary["pooled"]["reid"] == max(client["reid"] for client in clients[:2]) > summary["pooled"]["reid_chance"]
    assert summary["pooled"]["snr_db"] == clients[1]["snr_db"]
    assert summary["pooled"]["bits"] == max(client["bits"] for client in clients)


def test_costs_are_those_of_the_rounds(folder: Path, summary: dict[str, Any]) -> None:
    rounds = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for client in summary["clients"]:
        name = str(client["client"])
        assert client["bytes_up"] == sum(row["bytes_up"].get(name, 0) for row in rounds)
        assert client["client_flops"] == sum(row["clients"].get(name, {}).get("flops", 0) for row in rounds)
    assert summary["clients"][0]["bytes_up"] > summary["clients"][2]["bytes_up"]
    assert summary["pooled"]["bytes_up"] == sum(client["bytes_up"] for client in summary["clients"])


def test_what_was_lost_is_counted(summary: dict[str, Any]) -> None:
    assert (summary["failed"], summary["rejected"]) == (1, 1)
    assert [(loss["round"], loss["client"], loss["kind"]) for loss in summary["lost"]] == [
        (1, 1, "failed"),
        (2, 1, "rejected"),
    ]
    assert [(client["failed"], client["rejected"]) for client in summary["clients"]] == [(0, 0), (1, 1), (0, 0)]


def test_the_file_is_strict_json_of_the_same(folder: Path, summary: dict[str, Any]) -> None:
    """But for what JSON does not know, which is null."""
    assert strict((folder / "summary.json").read_text()) == plain(summary)
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        strict(line)


def test_the_pictures_are_there(folder: Path, summary: dict[str, Any]) -> None:
    names = {path.name for path in (folder / "pictures").iterdir()}
    assert names >= {"samples.png", "hand-over.png", "overview.png", "curves.png"}
    assert {f"client-{client}.png" for client in range(3)} <= names
    assert not [name for name in names if name.startswith(".")]


def test_measuring_again_gives_the_same(folder: Path, summary: dict[str, Any]) -> None:
    """In whatever order, by whoever reads the folder."""
    before = (folder / "summary.json").read_bytes()
    with threads(1):
        assert summarize_run(folder) == summary
    assert (folder / "summary.json").read_bytes() == before


def test_samples_are_images(folder: Path) -> None:
    for client in range(3):
        images = load_file(folder / "clients" / str(client) / "samples.safetensors")["images"]
        assert images.abs().max() <= 1


def printed(summary: dict[str, Any], folder: Path, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    print_summary(summary, folder, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


HEADERS = ("client", "images", "cut", "FD", "TSTR", "SNR dB", "bits", "re-id", "up kB", "down MB", "GFLOP")


def _rows(lines: list[str]) -> list[list[str]]:
    return [line.split() for line in lines if re.match(r"\s*(\d+|pooled)\s+\d+", line)]


def test_the_table_is_legible_on_80_columns(folder: Path, summary: dict[str, Any]) -> None:
    lines = printed(summary, folder)
    table = lines[: next(i for i, line in enumerate(lines) if line.startswith("FD is"))]
    assert max(len(line) for line in table) <= 80
    assert not any("…" in line for line in table), "nothing is cut off"
    heading = next(line for line in table if "client" in line)
    assert all(header in heading for header in HEADERS), "no heading is broken over two lines"
    rows = _rows(table)
    assert [row[0] for row in rows] == ["0", "1", "2", "pooled"]
    first, client = rows[0], summary["clients"][0]
    assert first[1:8] == [
        str(client["num_images"]),
        "6",
        f"{client['fd']:.2f}",
        f"{client['tstr']:.3f}",
        f"{client['snr_db']:.1f}",
        f"{client['bits']:.1f}",
        f"{client['reid']:.3f}",
    ]


def test_large_numbers_are_legible_too(folder: Path, summary: dict[str, Any]) -> None:
    """A hundred clients, half an hour each, with images of many bits."""
    large = {
        "num_images": 20000,
        "cut_step": 1000,
        "fd": 123.45,
        "bits": 12345.6,
        "bytes_up": 123_456_789,
        "bytes_down": 234_567_890,
        "client_flops": 123_456 * 10**9,
        "client_seconds": 1234.5,
    }
    clients = [client | large | {"client": 99} for client in summary["clients"]]
    lines = printed(summary | {"clients": clients, "pooled": clients[0]}, folder, width=100)
    for row in _rows(lines)[:3]:
        assert row[:4] == ["99", "20000", "1000", "123.45"]
        assert row[6:7] + row[8:] == ["12345.6", "123456.8", "234.6", "123456", "1234.5"]


def test_lost_contributions_are_printed_with_their_reasons_verbatim(folder: Path, summary: dict[str, Any]) -> None:
    text = "\n".join(printed(summary, folder, width=200))
    assert "Lost contributions: 1 failed, 1 rejected:" in text
    assert "  round 1, client 1: RuntimeError: the [disk] is full" in text, "and not read as markup"
    assert "  round 2, client 1: `TrainReply` may hold metrics, recut, upload, not more" in text
    assert f"Everything is in {folder}" in text


def test_the_folder_is_printed_on_one_line_however_narrow(folder: Path, summary: dict[str, Any]) -> None:
    assert f"Everything is in {folder}" in printed(summary, folder, width=40)


def test_what_was_not_measured_is_a_dash_and_no_bound_is_inf(folder: Path, summary: dict[str, Any]) -> None:
    """As where the clients' folders are elsewhere, and where clean images were uploaded."""
    bare = {"fd": None, "tstr": None, "bits": math.inf, "snr_db": math.inf}
    lines = printed(summary | {"clients": [summary["clients"][0] | bare], "failed": 0, "rejected": 0}, folder)
    assert _rows(lines)[0][3:7] == ["-", "-", "inf", "inf"]
    assert not any("Lost" in line for line in lines)


def test_without_the_clients_folders_costs_are_all_there_is(
    folder: Path, tmp_path: Path, summary: dict[str, Any]
) -> None:
    """As in a deployment: quality is what the clients reported, and nothing is guessed."""
    for name in ("config.json", "metrics.jsonl"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    alone = summarize_run(tmp_path)
    assert "fd" not in alone["pooled"]
    assert alone["pooled"]["bytes_up"] == summary["pooled"]["bytes_up"]
    assert [client["held_out_loss"] for client in alone["clients"]] == [
        client["held_out_loss"] for client in summary["clients"]
    ]
    assert _rows(printed(alone, tmp_path))[0][3:5] == ["-", "-"]
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["curves.png"]


def test_samples_of_unknown_class_are_left_out_of_tstr_if_they_are_few(folder: Path) -> None:
    config = read_config(folder)
    samples = load_file(folder / "clients" / "2" / "samples.safetensors")
    images, labels = samples["images"].repeat(3, 1, 1, 1), samples["labels"].repeat(3)
    with threads(1):
        judge = SampleEvaluator.trained_on(
            federation_data(config.data, 3, 0), config.evaluation, torch.device("cpu"), {}, cache=folder
        )
        left = len(labels) // 2 + 1
        tstr = judge.measure({2: Samples(images[:left], labels[:left])})[1][2]["tstr"]
        labels[left:] = -1
        assert judge.measure({2: Samples(images, labels)})[1][2]["tstr"] == tstr
        assert tstr is not None
        labels[: left // 2] = -1
        assert judge.measure({2: Samples(images, labels)})[1][2]["tstr"] is None


def test_classifiers_that_train_at_a_time_learn_the_same_bits(folder: Path) -> None:
    config = read_config(folder)
    loaded = {client: load_file(folder / f"clients/{client}/samples.safetensors") for client in range(3)}
    samples = {client: Samples(own["images"], own["labels"]) for client, own in loaded.items()}
    measured = federation_data(config.data, 3, 0), config.evaluation, torch.device("cpu"), {0: "a", 1: "b", 2: "a"}
    with threads(1):
        alone, together = (SampleEvaluator.trained_on(*measured, cache=folder, cores=cores) for cores in (1, 3))
        assert together.measure(samples) == alone.measure(samples)
        assert torch.get_num_threads() == 1


@pytest.mark.parametrize(("tstr", "pooled", "per_client"), [("pooled", True, False), ("none", False, False)])
def test_classifiers_of_samples_are_trained_only_where_the_settings_want_them(
    folder: Path, tmp_path: Path, tstr: str, pooled: bool, per_client: bool
) -> None:
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text()) | {"evaluation.tstr": tstr})
    )
    with threads(1):
        measured = summarize_run(tmp_path / "run")
    assert (measured["pooled"]["tstr"] is not None) == pooled
    assert all((client["tstr"] is not None) == per_client for client in measured["clients"])
