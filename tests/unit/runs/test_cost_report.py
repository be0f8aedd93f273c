"""Costs add up over rounds, and disclosure is never less than what was given away."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from collafuse_flwr.config.config import Config
from collafuse_flwr.diffusion.schedule import make_schedule
from collafuse_flwr.runs.cost_report import client_costs, failed_contributions, server_costs, total
from collafuse_flwr.runs.history import History, RoundRecord

CONFIG = Config.from_flat(
    {"num_supernodes": 12, "diffusion.timesteps": 20, "cut_ratio": 0.3, "diffusion.schedule": "linear"}
)


def numbers(seconds: float, flops: int, images: int) -> dict[str, Any]:
    return {"loss": 0.1, "steps": 1, "image_updates": images, "seconds": seconds, "flops": flops}


def evaluated(bits: float, releases: int = 1) -> dict[str, Any]:
    return {
        "evaluation.num_samples": 4,
        "held_out_loss": 0.2,
        "kernel_distance": 0.01,
        "seconds": 9.0,
        "flops_per_image": 77,
        "releases": releases,
        "dp_steps": 5,
        "bits": bits,
        "server_flops_per_image": 88,
    }


def read(tmp_path: Path, *rounds: RoundRecord) -> list[dict[str, Any]]:
    """Rounds as they come back from metrics.jsonl."""
    History(tmp_path, list(rounds)).write_metrics()
    return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def rounds(tmp_path: Path) -> list[dict[str, Any]]:
    """Client 2 takes part throughout, 10 once, 11 fails and is rejected and never contributes."""
    first, second, third = (RoundRecord(number) for number in (1, 2, 3))
    first.cuts = dict.fromkeys(("2", "10", "11"), 6)
    first.images = {"2": 50, "10": 30, "11": 7}
    first.clients = {"2": numbers(1.5, 100, 8), "10": numbers(0.25, 30, 16)}
    first.bytes_up, first.bytes_down = {"2": 1000, "10": 600, "11": 5}, {"2": 20, "10": 20, "11": 20}
    first.rejected = {"11": "`upload.x_k` must be int8"}
    first.server = {"loss": 0.5, "steps": 2, "image_updates": 64, "seconds": 3.0, "flops": 1000, "pool": 80}
    second.images = {"2": 50, "11": 7}
    second.clients = {"2": numbers(0.5, 50, 8)}
    second.bytes_up, second.bytes_down = {"2": 10}, {"2": 2000, "11": 20}
    second.failed = {"11": "ValueError: no"}
    second.evaluation = {"2": evaluated(5.0)}
    second.server = first.server | {"seconds": 0.5, "flops": 500, "image_updates": 32, "pool": 81}
    third.images = {"2": 50}
    third.bytes_up, third.bytes_down = {"2": 1}, {"2": 2}
    third.failed = {"2": "no reply within 5 seconds"}
    third.evaluation = {"2": evaluated(7.0, releases=2), "10": evaluated(3.0)}
    return read(tmp_path, first, second, third)


def test_a_client_is_charged_for_every_round(rounds: list[dict[str, Any]]) -> None:
    two, ten, eleven = client_costs(CONFIG, rounds)
    alpha_bar = float(make_schedule("linear", 20).alpha_bar[6])
    snr = 10 * math.log10(alpha_bar / (1 - alpha_bar))
    assert two == {
        "client": 2,
        "cut_step": 6,
        "num_images": 50,
        "snr_db": pytest.approx(snr),
        "bits": 7.0,
        "releases": 2,
        "dp_steps": 5,
        "ledger_mu": None,
        "ledger_sgd_epsilon": None,
        "ledger_total_epsilon": None,
        "ledger_client_epsilon": None,
        "averages": 3,
        "bytes_up": 1011,
        "bytes_down": 2022,
        "client_flops": 150,
        "client_seconds": 2.0,
        "image_updates": 16,
        "flops_per_image": 77,
        "server_flops_per_image": 88,
        "held_out_loss": 0.2,
        "kernel_distance": 0.01,
        "failed": 1,
        "rejected": 0,
    }
    assert (ten["bytes_up"], ten["bytes_down"], ten["client_flops"], ten["client_seconds"]) == (600, 20, 30, 0.25)
    assert (ten["bits"], ten["releases"], ten["num_images"]) == (3.0, 1, 30)
    assert (eleven["bytes_up"], eleven["bytes_down"], eleven["client_flops"]) == (5, 40, 0)
    assert (eleven["failed"], eleven["rejected"], eleven["num_images"]) == (1, 1, 7)
    assert eleven["bits"] is eleven["releases"] is eleven["held_out_loss"] is None


def test_a_client_without_a_denoiser_has_no_loss(rounds: list[dict[str, Any]]) -> None:
    rounds[-1]["evaluation"]["2"]["held_out_loss"] = 0.0
    assert [row["held_out_loss"] for row in client_costs(CONFIG, rounds)] == [None, 0.2, None]


def test_clients_are_in_order_of_number(rounds: list[dict[str, Any]]) -> None:
    assert [row["client"] for row in client_costs(CONFIG, rounds)] == [2, 10, 11]


def test_the_servers_work_adds_up(rounds: list[dict[str, Any]]) -> None:
    """A round whose end it did not live to see has none."""
    assert server_costs(rounds) == {"flops": 1500, "seconds": 3.5, "image_updates": 96, "pool": 81}
    for row, seconds in zip(rounds, (4.0, 1.5, 0.0), strict=True):
        row["server"] |= {"batch_seconds": seconds, "modelled_seconds": 10 * seconds} if seconds else {}
    whole = server_costs(rounds)
    assert (whole["batch_seconds"], whole["modelled_seconds"], whole["seconds"]) == (5.5, 55.0, 3.5)
    assert server_costs([]) == {"flops": 0, "seconds": 0, "image_updates": 0, "pool": 0}
    assert server_costs([asdict(RoundRecord(1))]) == server_costs([])


def test_the_total_adds_costs_and_takes_the_worst_of_disclosure(rounds: list[dict[str, Any]]) -> None:
    clients = client_costs(CONFIG, rounds)
    added = total(clients)
    assert added["bits"] == 7.0
    assert added["snr_db"] == max(client["snr_db"] for client in clients)
    for name in ("bytes_up", "bytes_down", "client_flops", "client_seconds", "image_updates"):
        assert added[name] == sum(client[name] for client in clients)
    assert total([])["bits"] is total([])["snr_db"] is None
    assert total([])["bytes_up"] == 0


def test_a_clean_image_is_disclosed_without_bound(tmp_path: Path) -> None:
    """JSON has no infinity, but a client that uploads x_0 must not look like one of which nothing is known."""
    config = Config.from_flat({"num_supernodes": 3, "diffusion.timesteps": 20, "cut.client_ratios": [0, 0.3, 1]})
    row = RoundRecord(1, cuts={"0": 0, "1": 6, "2": 20}, images=dict.fromkeys("012", 10))
    row.evaluation = {"0": evaluated(math.inf), "1": evaluated(5.0), "2": evaluated(0.0, releases=0)}
    clients = client_costs(config, read(tmp_path, row))
    assert [client["bits"] for client in clients] == [math.inf, 5.0, 0.0]
    assert [clients[0]["snr_db"], clients[2]["snr_db"]] == [math.inf, -math.inf]
    assert (total(clients)["bits"], total(clients)["snr_db"]) == (math.inf, math.inf)


def test_what_was_lost_is_listed_with_its_reason(rounds: list[dict[str, Any]]) -> None:
    assert failed_contributions(rounds) == {
        "failed": 2,
        "rejected": 1,
        "lost": [
            {"round": 1, "client": 11, "kind": "rejected", "reason": "`upload.x_k` must be int8"},
            {"round": 2, "client": 11, "kind": "failed", "reason": "ValueError: no"},
            {"round": 3, "client": 2, "kind": "failed", "reason": "no reply within 5 seconds"},
        ],
    }
    assert failed_contributions([]) == {"failed": 0, "rejected": 0, "lost": []}
