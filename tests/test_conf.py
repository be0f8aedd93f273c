"""One source of defaults: Flower's copy in pyproject.toml and Hydra's composition of conf/ are as the schema."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from collafuse_flwr.config.config import Config
from collafuse_flwr.config.devices import FLEETS, PROFILES
from collafuse_flwr.config.sections import ENDS, FEDERATED, GANS, SPLIT
from simulations.cli import CONF, register_schema

SECTIONS: list[Any] = [section.default_factory for section in fields(Config)]
SPECS = {spec.name: spec for section in SECTIONS for spec in fields(section)}
#: Groups of one setting each; a data set may also be several under one name.
GROUPS = ("strategy", "dataset", "model")
JOINED = {"dataset": {"mnist_family", "mnist_fashion"}}


def typed(flat: dict[str, Any]) -> list[tuple[str, type, Any]]:
    return [(name, type(value), value) for name, value in flat.items()]


def composed(*overrides: str) -> dict[str, Any]:
    """What Hydra makes of conf/, as `python -m simulations.run` does."""
    register_schema()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain: Any = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    return {str(name): value for name, value in plain.items()}


def options(group: str) -> set[str]:
    return {path.stem for path in (CONF / group).glob("*.yaml")}


def test_flowers_run_config_has_exactly_these_defaults() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert typed(project["tool"]["flwr"]["app"]["config"]) == typed(Config().to_flower())


def test_hydra_composes_exactly_these_defaults() -> None:
    flower = {name.replace("_", "-"): value for name, value in composed().items()}
    assert typed(flower) == typed(Config().to_flower())


@pytest.mark.parametrize("group", GROUPS)
def test_every_choice_has_a_group_file_and_every_file_is_a_choice(group: str) -> None:
    assert options(group) - JOINED.get(group, set()) == set(SPECS[group].metadata["choices"])


def test_the_clients_network_is_no_group_of_its_own() -> None:
    assert {path.name for path in CONF.iterdir() if path.is_dir()}.isdisjoint({"client_model"})
    assert composed("client_model=small")["client_model"] == "small"


@pytest.mark.parametrize(
    ("group", "option"),
    [(group, option) for group in GROUPS for option in sorted(options(group))],
)
def test_an_option_sets_the_key_of_its_group_and_no_other(group: str, option: str) -> None:
    flat = composed(f"{group}={option}")
    Config.from_flat(flat)
    joined = option in JOINED.get(group, set())
    assert flat == Config().to_flat() | {group: flat[group] if joined else option}


@pytest.mark.parametrize("option", sorted(options("experiment")))
def test_a_recipe_is_allowed_and_gives_way_to_what_is_asked(option: str) -> None:
    recipe = composed(f"experiment={option}")
    config = Config.from_flat(recipe)
    assert config.data.dataset != "digits"
    asked = composed(f"experiment={option}", "dataset=digits", "model=nano", "strategy=fedavg", "num_rounds=7")
    changed = {name for name, value in asked.items() if value != recipe[name]}
    assert changed == {"dataset", "model", "strategy", "num_rounds"}


@pytest.mark.parametrize("option", sorted(name for name in options("experiment") if name.startswith("huscf_")))
def test_recipes_of_huscf_gan_are_as_published_but_in_size(option: str) -> None:
    """A cluster per data set, and with `_small` nothing else than clients, images, widths, rounds and samples."""
    recipe = composed(f"experiment={option}")
    sets = recipe["dataset"].split("+")
    assert recipe["num_clusters"] == len(sets)
    assert recipe["partition"] == ("by_domain" if len(sets) > 1 else recipe["partition"])
    assert (recipe["strategy"], recipe["kld_beta"], recipe["warmup_rounds"]) == ("huscf_gan", 1.0, 2)
    if not option.endswith("_small"):
        assert recipe["num_rounds"] == 50
        return
    full = composed(f"experiment={option.removesuffix('_small')}")
    changed = {name for name, value in recipe.items() if value != full[name]}
    assert changed <= {"num_supernodes", "max_client_images", "gan_width", "num_rounds", "num_samples"}


@pytest.mark.parametrize("option", sorted(options("federation")))
def test_a_federation_is_allowed_and_its_default_is_the_schemas(option: str) -> None:
    flat = composed(f"federation={option}")
    Config.from_flat(flat)
    changed = {name for name, value in flat.items() if value != Config().to_flat()[name]}
    assert changed <= {"num_supernodes", "fraction_train"}
    assert bool(changed) == (option != "silos")


def test_every_strategy_has_its_group() -> None:
    files = {path.stem: path.read_text() for path in (Path(__file__).parents[1] / "conf" / "strategy").glob("*.yaml")}
    assert set(files) == {*SPLIT, *ENDS, *FEDERATED, *GANS}
    assert all(f"\nstrategy: {name}\n" in text for name, text in files.items())


def test_the_papers_fleet_is_the_one_the_app_knows() -> None:
    flat = composed("fleet=paper7")
    assert {name for name, value in flat.items() if value != Config().to_flat()[name]} == {"devices"}
    assert flat["devices"] in FLEETS
    told = re.findall(r"(\d) ([\d.]+):(\d+)", (CONF / "fleet" / "paper7.yaml").read_text())
    known = [(name, device.flops / 1e9, device.link / 1e6) for name, device in PROFILES.items()]
    assert [(name, float(gflops), float(link)) for name, gflops, link in told] == known
