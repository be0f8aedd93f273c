"""Which settings mean the same run, and that a cell's name and arguments stand for it."""

from __future__ import annotations

import os
from typing import Any

import pytest

from collafuse_flwr.config.config import DEFAULTS, Config
from simulations.cli import compose, flat_settings, register_schema
from simulations.sweep.grid import MAX_NAME, canonical, distinct, fingerprint, overrides, run_name
from tests.component.simulations.report.fakes import settings

GAN = {"strategy": "huscf_gan"}
SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"runner": "local", "output": "there", "quiet": True, "resume": True, "federation.round_timeout": 5.0}),
    ({"strategy": "local"}, {"cut_ratio": 1.0}),
    ({"strategy": "local", "cut_ratio": 0.4}, {"strategy": "local", "cut_ratio": 0.6}),
    ({"strategy": "centralized"}, {"cut_ratio": 0.0}),
    (
        {"cut_ratio": 1.0, "upload.noise": "official"},
        {"cut_ratio": 1.0, "upload.draws_per_image": 3, "upload.dtype": "float32"},
    ),
    ({"strategy": "fedavg", "cut_ratio": 0.2}, {"strategy": "fedavg", "cut_ratio": 0.8, "upload.noise": "resampled"}),
    ({"cut_ratio": 0.3}, {"cut.client_ratios": [0.3, 0.3, 0.30, 0.3]}),
    ({"cut.client_ratios": [0.1, 0.2, 0.3, 0.4]}, {"cut.client_ratios": [0.1, 0.2, 0.3, 0.4], "cut_ratio": 0.9}),
    (
        {"cut.policy": "by_disclosure", "cut.criterion": "epsilon", "cut.target": 8},
        {"cut.policy": "by_disclosure", "cut.criterion": "epsilon", "cut.target": 8, "cut_ratio": 0.9},
    ),
    ({}, {"devices.profiles": "paper7", "devices.server_gflops": 3.0, "split_gan.min_cut": "0100"}),
    (
        {"data.conditioning": "none"},
        {"data.conditioning": "none", "upload.share_labels": False, "train.cfg_dropout": 0.1},
    ),
    ({}, {"dp.max_grad_norm": 2.0}),
    (
        {"cut_ratio": 0.0, "upload.share_labels": False},
        {
            "strategy": "centralized",
            "upload.share_labels": False,
            "train.cfg_dropout": 0.1,
            "sampling.guidance_scale": 2.0,
        },
    ),
    ({"partition": "iid"}, {"partition": "iid", "data.dirichlet_alpha": 9.0, "data.classes_per_client": 5}),
    ({}, {"data.attribute_groups": [["a"], ["b"]], "data.within_domain": "by_class", "data.cache_path": "there"}),
    ({"partition": "by_domain"}, {"partition": "by_domain", "data.dirichlet_alpha": 9.0, "data.classes_per_client": 5}),
    ({}, {"gan.width": 8, "split_gan.client_cuts": "0010", "clustering.warmup_rounds": 0}),
    (
        GAN,
        GAN
        | {
            "cut_ratio": 0.9,
            "model": "small",
            "upload.noise": "resampled",
            "sampling.steps": 3,
            "train.learning_rate": 0.1,
        },
    ),
]

OTHER: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"seed": 1}),
    ({}, {"resources.client_threads": 2}),
    ({}, {"resources.server_threads": 2}),
    ({}, {"runner": "local", "resources.stack_clients": 2}),
    ({}, {"device": "cpu"}),
    ({}, {"upload.noise": "resampled"}),
    ({"cut_ratio": 0.0}, {"cut_ratio": 0.0, "upload.noise": "resampled"}),
    ({"cut_ratio": 1.0}, {"cut_ratio": 1.0, "client.update_budget": "full"}),
    ({"cut.client_ratios": [0.1, 0.2, 0.3, 0.4]}, {"cut.client_ratios": [0.4, 0.3, 0.2, 0.1]}),
    ({"partition": "dirichlet"}, {"partition": "dirichlet", "data.dirichlet_alpha": 9.0}),
    (
        {"partition": "by_domain", "data.within_domain": "dirichlet"},
        {"partition": "by_domain", "data.within_domain": "dirichlet", "data.dirichlet_alpha": 9.0},
    ),
    ({"partition": "by_attribute"}, {"partition": "by_attribute", "data.attribute_groups": [["a"], ["b"]]}),
    ({}, {"data.conditioning": "attributes"}),
    ({}, {"data.conditioning": "none"}),
    ({}, {"train.random_hflip": True}),
    ({"dp.noise_multiplier": 2.0}, {"dp.noise_multiplier": 2.0, "dp.max_grad_norm": 2.0}),
    (
        {"cut.policy": "by_disclosure", "cut.criterion": "epsilon", "cut.target": 8},
        {"cut.policy": "by_disclosure", "cut.criterion": "epsilon", "cut.target": 9},
    ),
    (
        {"cut.policy": "by_device", "cut.target": 8, "devices.profiles": "paper7"},
        {"cut.policy": "by_device", "cut.target": 8, "devices.profiles": ["1", "1", "1", "1"]},
    ),
    (
        {"cut.policy": "by_disclosure", "cut.criterion": "epsilon", "cut.target": 8},
        {"cut.policy": "by_disclosure", "cut.criterion": "bits", "cut.target": 8},
    ),
    ({}, {"train.cfg_dropout": 0.1}),
    ({"cut_ratio": 0.0}, {"cut_ratio": 0.0, "train.cfg_dropout": 0.1}),
    ({"train.cfg_dropout": 0.1}, {"train.cfg_dropout": 0.1, "sampling.guidance_scale": 2.0}),
    (
        {"cut_ratio": 0.0, "train.cfg_dropout": 0.1},
        {"cut_ratio": 0.0, "train.cfg_dropout": 0.1, "sampling.guidance_scale": 2.0},
    ),
    (
        {"strategy": "fedavg", "train.cfg_dropout": 0.1},
        {"strategy": "fedavg", "train.cfg_dropout": 0.1, "sampling.guidance_scale": 2.0},
    ),
    ({"strategy": "fedavg"}, {"strategy": "fedprox"}),
    ({"strategy": "fedavg"}, {"strategy": "local"}),
    ({"strategy": "hybrid", "cut_ratio": 1.0}, {"strategy": "local"}),
    ({"strategy": "pfdm", "cut_ratio": 0.2}, {"strategy": "pfdm", "cut_ratio": 0.4}),
    (GAN, GAN | {"gan.width": 8}),
    (GAN, GAN | {"split_gan.client_cuts": "0010"}),
    (GAN, GAN | {"train.local_epochs": 3.0}),
    (GAN, GAN | {"evaluation.num_samples": 30}),
    (GAN, GAN | {"devices.profiles": "paper7"}),
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


def test_a_budget_in_terms_of_the_cut_makes_it_matter() -> None:
    for strategy, match in (("fedavg", "client_flops"), ("fedavg", "traffic"), ("local", "client_flops")):
        runs = [canonical(settings(strategy, cut_ratio=cut, train__match=match)) for cut in (0.2, 0.4)]
        assert runs[0] != runs[1]
        assert canonical(settings("local", train__match=match)) != canonical(settings(cut_ratio=1.0))
    whole, half = (settings("fedavg", train__match="traffic", upload__dtype=kind) for kind in ("float32", "float16"))
    assert canonical(whole) != canonical(half)


def test_each_run_once_and_the_first_name_wins() -> None:
    configs = [settings(cut_ratio=cut, seed=seed, runner="local") for cut in (0.2, 1.0) for seed in (0, 1)]
    configs += [settings("local", cut_ratio=cut, seed=1) for cut in (0.2, 1.0)]
    cells = distinct(configs)
    assert [cell.number for cell in cells] == [1, 2, 3, 4]
    assert [cell.config for cell in cells] == configs[:4]
    assert [len(cell.duplicates) for cell in cells] == [0, 0, 0, 2]
    assert cells[3].duplicates[0] == "strategy=local seed=1 runner=ray cut_ratio=0.2"


def test_a_name_says_what_was_swept() -> None:
    config = settings(cut_ratio=0.25, seed=3, upload__noise="resampled")
    assert run_name(config, ["seed", "cut_ratio", "upload.noise"]) == (
        f"collafuse-digits-c0.25-upload.noise-resampled-s3-{fingerprint(config)}"
    )
    assert run_name(settings("local"), ["cut_ratio"]).startswith("local-digits-s0-")
    assert run_name(settings("fedavg"), ["cut_ratio"]).startswith("fedavg-digits-s0-")


def test_a_name_is_one_folder_whatever_is_swept() -> None:
    config = settings(dataset_path="/data/ä b/" + "x" * 300, cut__client_ratios=[0.1, 0.2, 0.3, 0.4])
    name = run_name(config, ["dataset_path", "cut.client_ratios"])
    assert "/" not in name
    assert " " not in name
    assert len(name) < MAX_NAME + 20


@pytest.mark.parametrize("text", ["", "plain", "a b", "it's", "back\\slash\\", "\\'", "x=1,y", "[1,2]", "ä", '"'])
def test_arguments_are_the_settings(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ | {"HYDRA_FULL_ERROR": "1"})
    register_schema()
    config = settings(
        dataset_path=[text, "b"], cut_ratio=1e-2, quiet=True, cut__client_ratios=[0.1, 0.2, 0.3, 0.4], model="small"
    )
    (composed,) = compose(overrides(config))
    assert flat_settings(composed) == config.to_flat()
    assert Config.from_flat(flat_settings(composed)) == config


def test_a_network_of_the_users_own_goes_past_hydra() -> None:
    register_schema()
    config = settings(model="nets.plain:build", client__model="nets.plain:build")
    (composed,) = compose(overrides(config))
    assert flat_settings(composed) == config.to_flat()
    assert Config.from_flat(flat_settings(composed)) == config


@pytest.mark.parametrize("text", ["", "plain", "it's", "x=1,y", "ä", '"'])
def test_one_text_is_as_a_list_of_it_in_arguments(text: str) -> None:
    register_schema()
    config = settings(dataset_path=text)
    assert config == settings(dataset_path=[text] if text else [])
    (composed,) = compose(overrides(config))
    assert flat_settings(composed) == config.to_flat()


@pytest.mark.parametrize(
    "given",
    [
        {"partition": "drop_classes", "data.missing_classes": [[0, 0.3], [2, 0.7]], "data.size_skew": [[0.5, 1]]},
        {
            "partition": "by_attribute",
            "data.attribute_groups": [["it's", "a,b"], [], ['"']],
            "data.allow_overlap": True,
        },
        {"dataset": ["mnist", "kmnist"], "dataset_path": ["/a b", "/c"]},
        GAN
        | {"split_gan.client_cuts": ["0010", "1111", "0010", "0000"], "devices.profiles": ["1", "2", "48:150", "3"]},
        GAN | {"split_gan.client_cuts": "0010", "split_gan.min_cut": "0010", "devices.profiles": "paper7"},
        {"cut.policy": "by_disclosure", "cut.criterion": "snr_db", "cut.target": -12.5},
    ],
)
def test_lists_go_past_hydra(given: dict[str, Any]) -> None:
    register_schema()
    config = settings(**given)
    assert all(config.get(name) != DEFAULTS[name] for name in given if name != "strategy"), "none was dropped"
    (composed,) = compose(overrides(config))
    assert Config.from_flat(flat_settings(composed)) == config
