"""What moving cuts have leave a client: what is listed, what its owner allows, and nothing for what cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message

from collafuse_flwr.client_app import app as client_app
from collafuse_flwr.gan.networks import Cuts
from collafuse_flwr.gan.split_gan.block_moments import KINDS, leaving, moments_template
from collafuse_flwr.privacy.ledger import Ledger
from collafuse_flwr.runs.run_layout import RunLayout
from tests.component.strategies.test_huscf_gan import run, spoiled
from tests.component.strategies.test_recutting import SLOWING
from tests.message_guard import Tap, guard
from tests.small_runs import metrics


def test_messages_of_moving_cuts_hold_what_is_listed(tmp_path: Path) -> None:
    tap = Tap()
    settings = SLOWING | {"devices.slowdowns": ["2:8:1", "2:1:2"], "split_gan.ema": 0.9}
    made = run(tmp_path, tap.app, **settings)
    seen = guard(made.config, tap.crossed)
    assert ("train", "down", "config", "next_cuts") in seen
    moments = {way: set[str]() for way in ("down", "up")}
    for _, way, content in tap.crossed:
        if "weights" in content.array_records:
            moments[way] |= {name for name in content.array_records["weights"] if ":" in name}
    # It leaves blocks to the server, and takes them back.
    assert moments["down"] == moments["up"]
    assert {name.partition(":")[0] for name in moments["up"]} == set(KINDS)


def test_what_leaves_with_a_block_is_on_the_ledger(tmp_path: Path) -> None:
    made = run(tmp_path, **SLOWING)
    entries = Ledger(RunLayout(tmp_path).client(2).ledger).entries
    values = [entry["values"] for entry in entries if entry["kind"] == "weights"]
    blocks = [sum(x.numel() for x in Cuts.parse(cut).template(made.architecture).values()) for cut in ("1111", "1111")]
    left = leaving(Cuts.parse("1111"), made.cuts[2], made.architecture)
    moments = sum(x.numel() for x in moments_template(made.architecture, left, averaged=False).values())
    assert moments > 0
    assert values[:2] == [blocks[0], blocks[1] + moments]


def test_an_owner_keeps_its_blocks_and_goes_on(tmp_path: Path) -> None:
    """Its client keeps its cut, sends no moments, and loses no round."""
    policy = tmp_path / "policy.toml"
    policy.write_text(
        'weights = "always"\nlabels = true\nactivations = true\nmin_discriminator_blocks = 1\n'
        "min_images = 1\nmax_activation_rounds = 0\n"
    )
    made = run(tmp_path / "run", **SLOWING, policy=str(policy))
    rows = metrics(tmp_path / "run")
    assert all(row["failed"] == row["rejected"] == {} for row in rows)
    assert rows[1]["server"]["replanned"]["cuts"]["2"][2] == "0"
    assert rows[2]["server"]["client_cuts"]["2"] == "1111"
    assert made.recutting.least == {2: Cuts.parse("1111")}
    entries = Ledger(RunLayout(tmp_path / "run").client(2).ledger).entries
    assert len({entry["values"] for entry in entries if entry["kind"] == "weights"}) == 1


@pytest.mark.parametrize("harm", ["blown up", "one lacks", "another shape", "uncalled for"])
def test_moments_that_cannot_be_cost_only_their_client(tmp_path: Path, harm: str) -> None:
    round_ = 1 if harm == "uncalled for" else 2

    def spoil(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        arrays = dict(reply.content.array_records["weights"].items())
        if harm == "uncalled for":
            arrays["exp_avg:generator.1.0.weight"] = Array(np.zeros(3, np.float32))
        else:
            name = next(name for name in arrays if name.startswith("exp_avg_sq:"))
            value = arrays.pop(name).numpy()
            changed = {"blown up": 0 * value, "another shape": value[:1]}.get(harm)
            arrays |= {} if changed is None else {name: Array(changed)}
        reply.content["weights"] = ArrayRecord(arrays)
        return reply

    made = run(tmp_path, spoiled(2, lambda kind, _, now, __: (kind, now) == ("train", round_), spoil), **SLOWING)
    rows = metrics(tmp_path)
    assert list(rows[round_ - 1]["rejected"]) == ["2"]
    assert sorted(rows[round_ - 1]["clients"]) == list("013")
    assert rows[2]["server"]["client_cuts"]["2"] == ("1111" if round_ == 2 else str(made.cuts[2]))
    assert all(bool(value.isfinite().all()) for value in made.half.blocks().values())
