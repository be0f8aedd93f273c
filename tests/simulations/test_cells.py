"""Which settings mean the same run, and that a cell's name and arguments stand for it."""

from __future__ import annotations

import os
from typing import Any

import pytest

from collafuse_flwr.config.config import Config
from simulations.cli import compose, register_schema
from simulations.sweep.grid import MAX_NAME, canonical, distinct, fingerprint, overrides, run_name
from tests.simulations.report.fakes import settings

GAN = {"strategy": "huscf_gan"}
SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"runner": "local", "output": "there", "quiet": True, "resume": True, "round_timeout": 5.0}),
    ({"strategy": "local"}, {"cut_ratio": 1.0}),
    ({"strategy": "local", "cut_ratio": 0.4}, {"strategy": "local", "cut_ratio": 0.6}),
    ({"strategy": "centralised"}, {"cut_ratio": 0.0}),
    ({"cut_ratio": 1.0, "upload": "official"}, {"cut_ratio": 1.0, "copies_per_image": 3, "upload_dtype": "float32"}),
    ({"strategy": "fedavg", "cut_ratio": 0.2}, {"strategy": "fedavg", "cut_ratio": 0.8, "upload": "fresh"}),
    ({"cut_ratio": 0.3}, {"client_cut_ratios": "0.3,0.3,0.30,0.3"}),
    ({"client_cut_ratios": "0.1,0.2,0.3,0.4"}, {"client_cut_ratios": "0.1,0.2,0.3,0.4", "cut_ratio": 0.9}),
    ({"cut_epsilon": 8}, {"cut_epsilon": 8, "cut_ratio": 0.9}),
    ({}, {"devices": "paper7", "server_gflops": 3.0, "min_g_tail": 1}),
    ({"condition": "none"}, {"condition": "none", "share_labels": False, "label_dropout": 0.1}),
    ({}, {"dp_max_grad_norm": 2.0}),
    (
        {"cut_ratio": 0.0, "share_labels": False},
        {"strategy": "centralised", "share_labels": False, "label_dropout": 0.1, "guidance": 2.0},
    ),
    ({"partition": "iid"}, {"partition": "iid", "dirichlet_alpha": 9.0, "classes_per_client": 5}),
    ({}, {"attribute_groups": "a;b", "within_domain": "by_class", "cache_path": "there"}),
    ({"partition": "by_domain"}, {"partition": "by_domain", "dirichlet_alpha": 9.0, "classes_per_client": 5}),
    ({}, {"gan_width": 8, "client_cuts": "0010", "warmup_rounds": 0}),
    (GAN, GAN | {"cut_ratio": 0.9, "model": "small", "upload": "fresh", "sampling_steps": 3, "learning_rate": 0.1}),
]

OTHER: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"seed": 1}),
    ({}, {"client_threads": 2}),
    ({}, {"server_threads": 2}),
    ({}, {"device": "cpu"}),
    ({}, {"upload": "fresh"}),
    ({"cut_ratio": 0.0}, {"cut_ratio": 0.0, "upload": "fresh"}),
    ({"cut_ratio": 1.0}, {"cut_ratio": 1.0, "effort": "full"}),
    ({"client_cut_ratios": "0.1,0.2,0.3,0.4"}, {"client_cut_ratios": "0.4,0.3,0.2,0.1"}),
    ({"partition": "dirichlet"}, {"partition": "dirichlet", "dirichlet_alpha": 9.0}),
    (
        {"partition": "by_domain", "within_domain": "dirichlet"},
        {"partition": "by_domain", "within_domain": "dirichlet", "dirichlet_alpha": 9.0},
    ),
    ({"partition": "by_attribute"}, {"partition": "by_attribute", "attribute_groups": "a;b"}),
    ({}, {"condition": "attributes"}),
    ({}, {"condition": "none"}),
    ({}, {"flip": True}),
    ({"dp_noise_multiplier": 2.0}, {"dp_noise_multiplier": 2.0, "dp_max_grad_norm": 2.0}),
    ({"cut_epsilon": 8}, {"cut_epsilon": 9}),
    ({"cut_seconds": 8, "devices": "paper7"}, {"cut_seconds": 8, "devices": "1,1,1,1"}),
    ({"cut_epsilon": 8}, {"cut_bits": 8}),
    ({}, {"label_dropout": 0.1}),
    ({"cut_ratio": 0.0}, {"cut_ratio": 0.0, "label_dropout": 0.1}),
    ({"label_dropout": 0.1}, {"label_dropout": 0.1, "guidance": 2.0}),
    ({"cut_ratio": 0.0, "label_dropout": 0.1}, {"cut_ratio": 0.0, "label_dropout": 0.1, "guidance": 2.0}),
    ({"strategy": "fedavg", "label_dropout": 0.1}, {"strategy": "fedavg", "label_dropout": 0.1, "guidance": 2.0}),
    ({"strategy": "fedavg"}, {"strategy": "fedprox"}),
    ({"strategy": "fedavg"}, {"strategy": "local"}),
    ({"strategy": "hybrid", "cut_ratio": 1.0}, {"strategy": "local"}),
    ({"strategy": "pfdm", "cut_ratio": 0.2}, {"strategy": "pfdm", "cut_ratio": 0.4}),
    (GAN, GAN | {"gan_width": 8}),
    (GAN, GAN | {"client_cuts": "0010"}),
    (GAN, GAN | {"local_epochs": 3.0}),
    (GAN, GAN | {"num_samples": 30}),
    (GAN, GAN | {"devices": "paper7"}),
    (GAN, {"strategy": "fedavg"}),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_run_by_other_settings(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert canonical(settings(**one)) == canonical(settings(**other))
    assert fingerprint(settings(**one)) == fingerprint(settings(**other))


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_another_run(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert canonical(settings(**one)) != canonical(settings(**other))
    assert fingerprint(settings(**one)) != fingerprint(settings(**other))


def test_a_budget_in_terms_of_the_cut_makes_it_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Config.to_flat
    monkeypatch.setattr(Config, "to_flat", lambda self: original(self) | {"budget": "client_flops"})
    for strategy in ("fedavg", "local"):
        runs = [canonical(settings(strategy, cut_ratio=cut)) for cut in (0.2, 0.4)]
        assert runs[0] != runs[1]


def test_each_run_once_and_the_first_name_wins() -> None:
    asked = [settings(cut_ratio=cut, seed=seed, runner="local") for cut in (0.2, 1.0) for seed in (0, 1)]
    asked += [settings("local", cut_ratio=cut, seed=1) for cut in (0.2, 1.0)]
    cells = distinct(asked)
    assert [cell.number for cell in cells] == [1, 2, 3, 4]
    assert [cell.config for cell in cells] == asked[:4]
    assert [len(cell.duplicates) for cell in cells] == [0, 0, 0, 2]
    assert cells[3].duplicates[0] == "strategy=local seed=1 runner=ray cut_ratio=0.2"


def test_a_name_says_what_was_swept() -> None:
    config = settings(cut_ratio=0.25, seed=3, upload="fresh")
    assert run_name(config, ["seed", "cut_ratio", "upload"]) == (
        f"collafuse-digits-c0.25-upload-fresh-s3-{fingerprint(config)}"
    )
    assert run_name(settings("local"), ["cut_ratio"]).startswith("local-digits-s0-")
    assert run_name(settings("fedavg"), ["cut_ratio"]).startswith("fedavg-digits-s0-")


def test_a_name_is_one_folder_whatever_is_swept() -> None:
    config = settings(dataset_path="/data/ä b/" + "x" * 300, client_cut_ratios="0.1,0.2,0.3,0.4")
    name = run_name(config, ["dataset_path", "client_cut_ratios"])
    assert "/" not in name
    assert " " not in name
    assert len(name) < MAX_NAME + 20


@pytest.mark.parametrize("text", ["", "plain", "a b", "it's", "back\\slash\\", "\\'", "x=1,y", "[1,2]", "ä", '"'])
def test_arguments_are_the_settings(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ | {"HYDRA_FULL_ERROR": "1"})
    register_schema()
    config = settings(dataset_path=text, cut_ratio=1e-2, quiet=True, client_cut_ratios="0.1,0.2,0.3,0.4", model="small")
    (composed,) = compose(overrides(config))
    assert dict(composed) == config.to_flat()


def test_a_network_of_the_users_own_goes_past_hydra() -> None:
    register_schema()
    config = settings(model="nets.plain:build", client_model="nets.plain:build")
    (composed,) = compose(overrides(config))
    assert dict(composed) == config.to_flat()
