"""An operator who has a client generate too much, or of anything else than samples of the run that it trained in."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from collafuse_flwr.client.generation import ImageRequest
from collafuse_flwr.client_app import MASKED
from collafuse_flwr.runs.generated import count_images
from collafuse_flwr.wire.codec import ClientError
from collafuse_flwr.wire.collafuse import SampleHandoff
from collafuse_flwr.wire.common import ClientInfo, ClientInfoRequest, EvaluateReply
from collafuse_flwr.wire.generation import Generated, GenerateHandoff, ImagesWanted, WantedRequest
from simulations.request import leave_request
from tests.adversarial.node import Node

TRAINED: dict[str, Any] = {"output": "/data/run", "cut_ratio": 0.5, "train__local_epochs": 1.0}
#: The settings of a run that generates, as Flower passes them on.
GENERATE = {"task": "generate", "output": "/data/run"}
HANDOFF = GenerateHandoff(round=1, x_k=torch.zeros(4, 1, 8, 8), label=-1, guidance=1.0, seed=0)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a client without a policy keeps of TRAINED."""
    return _train(Node(tmp_path_factory.mktemp("trained")), TRAINED).state


@pytest.fixture
def node(kept: Path, tmp_path: Path) -> Node:
    """A client without a policy that has trained in one round, and evaluated."""
    shutil.copytree(kept, tmp_path / "state")
    return Node(tmp_path)


def trained(folder: Path, policy: str, **settings: Any) -> Node:
    """The same with a policy, or other settings."""
    return _train(Node(folder, policy), TRAINED | settings)


def _train(node: Node, given: dict[str, Any]) -> Node:
    assert not isinstance(node.train(**given), ClientError)
    labels = torch.zeros(2, dtype=torch.int64) if given.get("upload__share_labels") else None
    handoff = SampleHandoff(round=1, x_k=torch.zeros(2, 1, 8, 8), labels=labels)
    assert not isinstance(node.ask("evaluate", handoff, EvaluateReply, **given), ClientError)
    return node


def generate(node: Node, handoff: GenerateHandoff = HANDOFF, run: int = 9, **settings: Any) -> Any:
    """The answer to samples that are handed over in a run that generates."""
    return node.send("query.generate", handoff, Generated, GENERATE | settings, run)


def beyond(reply: Any) -> str:
    """What a refusal by the policy says beside that it is one."""
    assert isinstance(reply, ClientError), reply
    head, _, tail = reply.reason.partition("beyond the policy of this client's owner: ")
    assert head == ""
    assert "\n" not in tail
    return tail


def nothing_is_there(node: Node) -> bool:
    """Whether no image, and no half of a folder, is in the client's state, and its log has the refusal."""
    left = [json.loads(line)["kind"] for line in (node.state / "ledger.jsonl").read_text().splitlines()]
    return left[-1] == "refusal" and "generated" not in left and not list(node.state.glob("generated/*/*"))


def test_images_stay_with_the_client_and_a_count_is_all_that_leaves(node: Node) -> None:
    before = [json.loads(line) for line in (node.state / "ledger.jsonl").read_text().splitlines()]
    assert generate(node) == Generated(4)
    ((folder,),) = [list(run.iterdir()) for run in (node.state / "generated").iterdir()]
    assert folder.name == "0001"
    images = {path.name.partition("-")[0] for path in folder.glob("[0-9]*.png")}
    assert images == {"0", "1", "2", "3"}
    assert (folder / "grid.png").is_file()
    after = [json.loads(line) for line in (node.state / "ledger.jsonl").read_text().splitlines()][len(before) :]
    assert [entry["kind"] for entry in after] == ["round", "generated", "numbers"]
    assert after[-1]["values"] == {"num_images": 4}
    # Nothing of it counts as a release.
    assert not any(entry.get("unbounded") for entry in after)


@pytest.mark.parametrize(
    ("handoff", "named"),
    [
        (replace(HANDOFF, x_k=torch.full((4, 1, 8, 8), torch.nan)), "`x_k` in float32"),
        (replace(HANDOFF, x_k=torch.full((4, 1, 8, 8), -torch.inf)), "`x_k` in float32"),
        (replace(HANDOFF, x_k=torch.full((4, 1, 8, 8), 1e30)), "`x_k` in float32"),
        (replace(HANDOFF, x_k=torch.zeros(4, 1, 8, 8, dtype=torch.float64)), "`x_k` in float32"),
        (replace(HANDOFF, x_k=torch.zeros(4, 3, 8, 8)), "`x_k` in float32"),
        (replace(HANDOFF, x_k=torch.zeros(4, 1, 4096, 8)), "`x_k` in float32"),
        (replace(HANDOFF, x_k=torch.zeros(4)), "`x_k` in float32"),
        (replace(HANDOFF, x_k=torch.zeros(0, 1, 8, 8)), "`max_samples` = 10000"),
        (replace(HANDOFF, x_k=torch.tensor(0.0)), "`max_samples` = 10000"),
        (replace(HANDOFF, label=3), "`label` is -1 or one of 3 classes"),
        (replace(HANDOFF, label=-2), "`label` is -1 or one of 3 classes"),
        (replace(HANDOFF, labels=torch.zeros(4, dtype=torch.int64)), "samples come with labels if"),
        (replace(HANDOFF, guidance=1e300), "`guidance` is within 0..1000"),
        (replace(HANDOFF, guidance=-1.0), "`guidance` is within 0..1000"),
        (replace(HANDOFF, guidance=2.0), "`sampling.guidance_scale` = 2.0 is not allowed"),
        (replace(HANDOFF, round=3), "`round` is 1 or 2"),
    ],
)
def test_samples_that_do_not_fit_are_refused_before_anything_is_computed(
    node: Node, handoff: GenerateHandoff, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collafuse_flwr.client.generation.finish", None)
    assert beyond(generate(node, handoff)).startswith(named)
    assert nothing_is_there(node)


@pytest.mark.parametrize(
    "labels", [None, torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, -1]), torch.zeros(3, dtype=torch.int64)]
)
def test_labels_are_classes_that_there_are(tmp_path: Path, labels: torch.Tensor | None) -> None:
    node = trained(tmp_path, "labels = true\n", upload__share_labels=True)
    assert "labels" in beyond(generate(node, replace(HANDOFF, labels=labels)))
    assert nothing_is_there(node)
    assert generate(node, replace(HANDOFF, labels=torch.tensor([0, 1, 2, 0]))) == Generated(4)


def test_no_more_images_than_the_owner_keeps(tmp_path: Path) -> None:
    """10^9 images need no such message: those that lie there count, in whichever run they were made."""
    node = trained(tmp_path, "max_samples = 5\nmax_generated = 8\n", evaluation__num_samples=4)
    assert beyond(generate(node, replace(HANDOFF, x_k=torch.zeros(6, 1, 8, 8)))) == "`max_samples` = 5"
    assert nothing_is_there(node)
    assert generate(node, run=9) == Generated(4)
    assert generate(node, run=10) == Generated(4)
    assert beyond(generate(node, run=11)) == "`max_generated` = 8"
    assert count_images(node.state / "generated") == 8


def test_an_owner_may_have_none_made(tmp_path: Path) -> None:
    node = trained(tmp_path, "max_generated = 0\n")
    assert beyond(generate(node)) == "`max_generated` = 0"
    assert nothing_is_there(node)


def test_the_same_samples_are_finished_once_in_a_run(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(node) == Generated(4)
    for _ in range(3):
        reply = generate(node)
        assert isinstance(reply, ClientError)
        assert reply.reason == MASKED
        assert "`round` = 1 of query.generate is not allowed" in capsys.readouterr().err
    assert count_images(node.state / "generated") == 4


def test_before_anything_was_trained_there_is_nothing_to_generate_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = Node(tmp_path)
    for kind, request, reply in (
        ("query.client_info", ClientInfoRequest(), ClientInfo),
        ("query.images_wanted", WantedRequest(), ImagesWanted),
        ("query.generate", HANDOFF, Generated),
    ):
        answer = node.send(kind, request, reply, GENERATE)
        assert isinstance(answer, ClientError)
        assert answer.reason == MASKED
        assert "has not come to an evaluation of a run of this name" in capsys.readouterr().err
    assert not list(node.state.glob("**/*.png"))


@pytest.mark.parametrize("output", ["/data/../../../state", "../..", "/data/run/..", "/data/ru\0n", "..", "/"])
def test_a_runs_name_leads_nowhere_else(node: Node, tmp_path: Path, output: str) -> None:
    """Neither to another folder to read from, nor to one to write to."""
    before = sorted(path for path in tmp_path.rglob("*") if path.name not in ("ledger.jsonl", "lock"))
    reply = generate(node, output=output)
    assert isinstance(reply, ClientError)
    assert reply.reason == MASKED
    assert sorted(path for path in tmp_path.rglob("*") if path.name not in ("ledger.jsonl", "lock")) == before


def test_a_run_that_generates_has_no_other_messages_and_no_other_settings(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training would else go on under settings that the policy was never held against."""
    reply = node.send("evaluate", SampleHandoff(round=2, x_k=torch.zeros(2, 1, 8, 8)), EvaluateReply, GENERATE)
    assert isinstance(reply, ClientError)
    assert "`task` = generate has no message evaluate" in capsys.readouterr().err
    assert isinstance(generate(node, cut_ratio=0.1), ClientError)
    assert "as `task` = generate takes the settings of the run in `output`" in capsys.readouterr().err
    assert isinstance(node.ask("query.generate", HANDOFF, Generated, **TRAINED), ClientError)
    assert "has no message query.generate" in capsys.readouterr().err
    assert not (node.state / "generated").exists()


def test_a_network_that_the_owner_does_not_name_any_more_is_not_imported(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kept,) = node.state.glob("runs/*/trained.json")
    written = json.loads(kept.read_text())
    written["settings"]["model"] = "planted:name"
    kept.write_text(json.dumps(written))
    monkeypatch.setattr("collafuse_flwr.client.generation.finish", None)
    assert beyond(generate(node)) == "`imports` = []"


# What a client's owner wants for itself.


def wanted(node: Node) -> Any:
    return node.send("query.images_wanted", WantedRequest(), ImagesWanted, GENERATE, 9)


def test_a_request_is_served_once_and_says_no_class_unless_the_server_needs_it(node: Node) -> None:
    assert wanted(node) == ImagesWanted()
    path = leave_request(node.state, ImageRequest(4, 2, 7))
    assert wanted(node) == ImagesWanted(4, -1, 7)
    assert generate(node, replace(HANDOFF, round=2, seed=7)) == Generated(4)
    (folder,) = node.state.glob("generated/*/0001")
    assert {f.name for f in folder.glob("*-*.png")} == {f"{i}-class-2.png" for i in range(4)}
    assert json.loads((folder / "generated.json").read_text())["requested_by"] == "the client"
    assert not path.exists()
    assert wanted(node) == ImagesWanted()


def test_samples_for_a_request_that_nobody_made_are_refused(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    path = leave_request(node.state, ImageRequest(3, -1, 7))
    for seed, count in ((7, 4), (8, 3)):
        handoff = replace(HANDOFF, round=2, seed=seed, x_k=torch.zeros(count, 1, 8, 8))
        assert isinstance(generate(node, handoff), ClientError)
        assert "for a request that nobody here has made" in capsys.readouterr().err
    assert path.exists()
    assert not list(node.state.glob("generated/*/*"))


def test_a_class_leaves_with_a_request_only_where_labels_may(tmp_path: Path) -> None:
    node = trained(tmp_path, "labels = true\n", upload__share_labels=True)
    leave_request(node.state, ImageRequest(4, 2, 7))
    assert wanted(node) == ImagesWanted(4, 2, 7)
    (tmp_path / "policy.toml").write_text("labels = false\n")
    assert beyond(wanted(node)) == "`labels` = False"


def test_a_request_is_held_to_the_owners_limits(tmp_path: Path) -> None:
    node = trained(tmp_path, "max_generated = 8\n")
    leave_request(node.state, ImageRequest(9, -1, 7))
    assert beyond(wanted(node)) == "`max_generated` = 8"


# Killed on the way.


def test_a_folder_is_whole_or_not_there(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("collafuse_flwr.runs.figures.save_grid", full)
        assert isinstance(generate(node), ClientError)
    assert not list(node.state.glob("generated/*/*"))
    assert generate(node, run=10) == Generated(4)
