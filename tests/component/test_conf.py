"""One source of defaults: Flower's copy in pyproject.toml and Hydra's composition of conf/ are as the schema."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import pytest
from flwr.common.config import get_fused_config_from_dir
from hydra import initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

from collafuse_flwr.config.config import DEFAULTS, Config, without_unread
from collafuse_flwr.config.devices import FLEETS, PROFILES
from collafuse_flwr.config.strategies import STRATEGIES
from collafuse_flwr.core.errors import SettingError
from simulations.cli import CONF, config_of, flat_settings, given_names, register_schema
from simulations.sweep.grid import override

PROJECT = Path(__file__).parents[2]


def typed(flat: dict[str, Any]) -> list[tuple[str, type, Any]]:
    return [(name, type(value), value) for name, value in flat.items()]


@cache
def composed(*arguments: str) -> DictConfig:
    """What Hydra makes of conf/, as `python -m simulations.run` does."""
    register_schema()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", list(arguments))


def configured(*arguments: str) -> Config:
    """The settings that `python -m simulations.run` takes these arguments for."""
    return config_of(composed(*arguments), given_names(list(arguments)))


def changed(*arguments: str) -> set[str]:
    """The settings that are not at their default."""
    return {name for name, value in flat_settings(composed(*arguments)).items() if value != DEFAULTS[name]}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


RECIPES = options("experiment")


def test_flowers_run_config_has_exactly_these_defaults() -> None:
    """As Flower itself flattens the tables of pyproject.toml."""
    assert typed(get_fused_config_from_dir(PROJECT, {})) == typed(Config().to_flower())


def test_flower_takes_any_setting_by_its_public_name() -> None:
    given: dict[str, Any] = {"gan.width": 8, "strategy": "huscf_gan", "split-gan.client-cuts": '["0010","1111"]'}
    fused = get_fused_config_from_dir(PROJECT, given | {"num-supernodes": 2})
    config = Config.from_flat(fused)
    assert (config.gan.width, config.split_gan.client_cuts) == (8, ("0010", "1111"))
    with pytest.raises(ValueError, match="not present"):
        get_fused_config_from_dir(PROJECT, {"gan.height": 8})


def test_hydra_composes_exactly_these_defaults() -> None:
    nested: Any = OmegaConf.to_container(composed(), resolve=True)
    defaults = Config().to_nested()
    assert nested == defaults
    assert list(nested) == list(defaults)
    assert typed(flat_settings(composed())) == typed(Config().to_flat())


def test_hydra_takes_any_setting_by_its_public_name() -> None:
    # All at once, as each composition takes a third of a second, and each with a value of its own.
    own = {
        name: [[f"a{i}", "b"], ["c"]] if isinstance(default, list) else f"other{i}"
        for i, (name, default) in enumerate(DEFAULTS.items())
    }
    assert flat_settings(composed(*(override(name, value) for name, value in own.items()))) == own
    for unknown in ("gan.height=3", "cut_rato=0.2", "data.dataset=mnist", "gan_width=3"):
        with pytest.raises(ConfigCompositionException):
            composed(unknown)


@pytest.mark.parametrize("option", RECIPES)
def test_a_recipe_is_allowed_and_its_strategy_reads_what_it_sets(option: str) -> None:
    flat = flat_settings(composed(f"experiment={option}"))
    config = configured(f"experiment={option}")
    assert config.data.dataset != ("digits",)
    assert Config.from_flat(flat) == config, "nothing is dropped"


@pytest.mark.parametrize("option", RECIPES)
def test_a_recipe_gives_way_to_overrides(option: str) -> None:
    changes = {"dataset": "digits", "model": "nano", "strategy": "fedavg", "num_rounds": 7, "evaluation.num_samples": 9}
    recipe = flat_settings(composed(f"experiment={option}"))
    other = flat_settings(composed(f"experiment={option}", *(f"{name}={value}" for name, value in changes.items())))
    assert other == recipe | changes


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("option", [name for name in RECIPES if not name.startswith("huscf_")])
def test_a_recipe_serves_every_strategy_and_drops_what_it_does_not_read(option: str, strategy: str) -> None:
    # Hydra is left out here, as it is slow: the test above shows what it makes of `strategy=NAME` beside a recipe.
    recipe = flat_settings(composed(f"experiment={option}")) | {"strategy": strategy}
    given = {"strategy"}
    if STRATEGIES[strategy].is_gan and recipe["data.conditioning"] != "classes":
        with pytest.raises(SettingError, match=r"^`data.conditioning` = .* classes when `strategy` is a GAN"):
            Config.from_flat(without_unread(recipe, given))
        recipe["data.conditioning"] = "classes"
    config = Config.from_flat(without_unread(recipe, given))
    dropped = {name for name, value in recipe.items() if config.get(name) != value}
    assert all(config.unread(name) and config.get(name) == DEFAULTS[name] for name in dropped)
    if strategy == "mdgan":
        assert {"model", "diffusion.timesteps"} & changed(f"experiment={option}") <= dropped


def test_what_was_given_is_not_dropped_but_refused() -> None:
    recipe = ["experiment=cifar10", "strategy=fedavg"]
    assert configured(*recipe).cut.cut_ratio == DEFAULTS["cut_ratio"]
    with pytest.raises(SettingError, match=r"^`server.batch_size` = 64 is not allowed: 128, its default, as"):
        configured(*recipe, "server.batch_size=64")
    # Though a recipe sets it as well.
    with pytest.raises(SettingError, match=r"^`model` = 'base' is not allowed: 'tiny', its default, as"):
        configured("experiment=cifar10", "strategy=fedgan", "model=base")


@pytest.mark.parametrize("option", [name for name in RECIPES if name.startswith("huscf_")])
def test_recipes_of_huscf_gan_are_as_published_but_in_size(option: str) -> None:
    """A cluster per data set, and with `_small` nothing else than clients, images, widths, rounds and samples."""
    recipe = flat_settings(composed(f"experiment={option}"))
    config = configured(f"experiment={option}")
    sets = config.data.dataset
    assert config.clustering.num_clusters == len(sets)
    assert config.data.partition == ("by_domain" if len(sets) > 1 else config.data.partition)
    assert (config.run.strategy, config.clustering.kld_beta, config.clustering.warmup_rounds) == ("huscf_gan", 1.0, 2)
    assert config.devices.profiles == ("paper7",)
    if not option.endswith("_small"):
        assert config.run.num_rounds == 50
        return
    full = flat_settings(composed(f"experiment={option.removesuffix('_small')}"))
    differ = {name for name, value in recipe.items() if value != full[name]}
    size = {"num_supernodes", "data.max_client_images", "gan.width", "num_rounds", "evaluation.num_samples"}
    assert differ <= size


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_scale_is_of_any_strategy(strategy: str) -> None:
    assert options("scale") == ["cross_device"]
    assert changed("scale=cross_device") == {"num_supernodes", "federation.fraction_train"}
    config = configured("scale=cross_device", f"strategy={strategy}")
    assert (config.run.num_supernodes, config.federation.fraction_train) == (100, 0.2)


def test_a_gan_preset_is_of_gans_and_as_published() -> None:
    assert options("gan_preset") == ["huscf_paper", "huscf_steady"]
    assert changed("gan_preset=huscf_paper") == {
        "clustering.num_batches",
        "clustering.kld_beta",
        "gan.sample_labels",
    }
    config = configured("gan_preset=huscf_paper", "strategy=huscf_gan")
    assert config.gan.sample_labels == "uniform"
    for preset in options("gan_preset"):
        assert configured(f"gan_preset={preset}", "strategy=collafuse") == Config()


def test_the_steady_preset_turns_on_what_was_measured_and_nothing_else() -> None:
    assert changed("gan_preset=huscf_steady") == {"split_gan.ema"}
    assert configured("gan_preset=huscf_steady", "strategy=huscf_gan").split_gan.ema == 0.9


def test_every_folder_of_conf_is_a_group_or_of_another_command() -> None:
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    assert groups == {"scale", "fleet", "gan_preset", "experiment", "suite"}


def test_the_papers_fleet_is_the_one_the_app_knows() -> None:
    assert changed("fleet=paper7") == {"devices.profiles"}
    assert configured("fleet=paper7", "strategy=huscf_gan").devices.profiles[0] in FLEETS
    documented = re.findall(r"(\d) ([\d.]+):(\d+)", (CONF / "fleet" / "paper7.yaml").read_text())
    profiles = [(name, device.flops / 1e9, device.link / 1e6) for name, device in PROFILES.items()]
    assert [(name, float(gflops), float(link)) for name, gflops, link in documented] == profiles
