"""Rounds of any GAN without clients, or with one that diverges or fails."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from safetensors.torch import load_file

from collafuse_flwr.client.split_session import Batches
from collafuse_flwr.client.state_store import ClientStore
from collafuse_flwr.client_app import app as client_app
from collafuse_flwr.gan.split_gan.client_half import Batch
from collafuse_flwr.privacy.ledger import Ledger
from collafuse_flwr.runs.run_layout import RunLayout
from strategies.client_manager import ClientManager
from tests.component.strategies.test_huscf_gan import GAN, run
from tests.small_runs import bytes_of, connect, metrics, run_strategy, small
from tests.strategy_kinds import GANS

#: GANs whose batches pass between server and clients, by messages or in one process.
IN_PROCESS = ("huscf_gan", "mdgan", "fsl_gan")
#: GANs that clients train whole.
WHOLE = tuple(name for name in GANS if name not in IN_PROCESS)


def of(strategy: str, transport: str) -> dict[str, Any]:
    """The same run of any GAN, with its least cuts; those that train whole GANs have no transport to choose."""
    common = {name: value for name, value in GAN.items() if not name.startswith(("split_gan", "clustering"))}
    chosen = {"gan.transport": transport} if strategy in IN_PROCESS else {}
    return (
        common | {"strategy": strategy} | ({"clustering.warmup_rounds": 1} if strategy == "huscf_gan" else {}) | chosen
    )


@pytest.mark.parametrize(
    ("strategy", "engine"),
    [
        *((one, engine) for one in IN_PROCESS for engine in ("messages", "in_process")),
        *((one, "messages") for one in WHOLE),
    ],
)
def test_a_round_without_anybody_to_ask_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, engine: str
) -> None:
    choose = ClientManager.sample

    def nobody_in_the_second(members: ClientManager, round_: int) -> list[int]:
        return [] if round_ == 2 else choose(members, round_)

    monkeypatch.setattr(ClientManager, "sample", nobody_in_the_second)
    config = small(
        tmp_path,
        **of(strategy, engine) | {"num_rounds": 3},
    )
    run_strategy(config, connect(config))
    assert [sorted(row["clients"]) for row in metrics(tmp_path)] == [list("0123"), [], list("0123")]


@pytest.mark.parametrize("strategy", IN_PROCESS)
def test_who_diverges_in_this_process_is_left_out_as_by_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    draw, his = Batches.draw, ClientStore(tmp_path / "his").secret(0, 2)

    def hot(batches: Batches, round_: int, step: int) -> Batch:
        batch = draw(batches, round_, step)
        return replace(batch, x=batch.x * math.nan) if batches.secret == his and (round_, step) == (1, 1) else batch

    monkeypatch.setattr(Batches, "draw", hot)
    for engine in ("messages", "in_process"):
        config = small(tmp_path / engine, **of(strategy, engine))
        run_strategy(config, connect(config))
        first, second = metrics(tmp_path / engine)
        assert list(first["rejected"]) == ["2"]
        assert "must be finite" in first["rejected"]["2"]
        assert sorted(first["clients"]) == list("013")
        assert second["rejected"] == {} or sorted(second["rejected"]) == ["2"]
    ours, theirs = bytes_of(tmp_path / "messages"), bytes_of(tmp_path / "in_process")
    kept = [name for name in ours if name.startswith("server")]
    assert kept
    assert [name for name in kept if ours[name] != theirs[name]] == []


def test_a_round_of_which_nobody_comes_back_changes_nothing(tmp_path: Path) -> None:
    def call(message: Message, context: Context) -> Message:
        if int(str(message.content.config_records["config"]["round"])) == 2:
            raise RuntimeError("broken")
        return client_app(message, context)

    app = ClientApp()
    app.query("client_info")(client_app)
    app.train("split")(call)
    for add in (app.train(), app.evaluate("latent"), app.evaluate()):
        add(client_app)
    run(tmp_path / "one", num_rounds=1)
    made = run(tmp_path / "two", app)
    assert sorted(metrics(tmp_path / "two")[1]["failed"]) == ["0", "1", "2", "3"]
    assert metrics(tmp_path / "two")[1]["server"]["steps"] == 1
    kept = load_file(tmp_path / "one" / "server" / "middle.safetensors")
    assert all(torch.equal(made.half.blocks()[name], value) for name, value in kept.items())


@pytest.mark.parametrize("strategy", IN_PROCESS)
def test_the_ledgers_of_both_engines_tell_the_same(tmp_path: Path, strategy: str) -> None:
    """In one process nothing was noted, and `simulations.disclosed` showed clients that nothing had left."""

    def entries(folder: Path) -> list[dict[str, Any]]:
        kept = []
        for entry in Ledger(RunLayout(folder).client(0).ledger).entries:
            own = {name: value for name, value in entry.items() if name not in ("time", "run")}
            if own["kind"] == "secret":
                # It is noted when it is first needed, which is later in one process.
                continue
            if own["kind"] == "numbers":
                own["values"] = {name: value for name, value in own["values"].items() if name != "seconds"}
            kept.append(own)
        return kept

    for engine in ("messages", "in_process"):
        config = small(tmp_path / engine, **of(strategy, engine))
        run_strategy(config, connect(config))
    ours = entries(tmp_path / "messages")
    assert {"round", "numbers", "weights", "activations"} == {entry["kind"] for entry in ours}
    assert ours == entries(tmp_path / "in_process")
