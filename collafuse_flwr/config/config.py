"""All settings of a run, from flat names and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace

from collafuse_flwr.config.devices import Device, parse_devices
from collafuse_flwr.config.gan import check_gan
from collafuse_flwr.config.parsing import dropped_classes, size_shares
from collafuse_flwr.config.sections import (
    CLEAN,
    ENDS,
    GANS,
    MIXED,
    SECTIONS,
    SPLIT,
    TARGETS,
    DataConfig,
    DeviceConfig,
    EvaluationConfig,
    FederationConfig,
    GanConfig,
    ModelConfig,
    RunConfig,
    SplitConfig,
    TrainConfig,
)
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.fields import allowed, coerce


@dataclass(frozen=True)
class Config:
    """All settings of a run, by section; names are unique over the sections."""

    run: RunConfig = field(default_factory=RunConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    gan: GanConfig = field(default_factory=GanConfig)
    hardware: DeviceConfig = field(default_factory=DeviceConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    @classmethod
    def from_flat(cls, flat: Mapping[str, object]) -> Config:
        """Build and validate the settings from flat names, with `_` or `-`; absent ones take their default.

        Raises:
            SettingError: a name is unknown, or a value has the wrong type or is out of range.
        """
        given = {name.replace("-", "_"): value for name, value in flat.items()}
        known = setting_names()
        for name, value in given.items():
            if name not in known:
                raise SettingError(name, value, f"no such setting; there are {', '.join(known)}")
        sections = {
            section: kind(**{f.name: coerce(f, given[f.name]) for f in fields(kind) if f.name in given})
            for section, kind in SECTIONS.items()
        }
        config = cls(**sections)
        _check_together(config)
        return config

    def to_flat(self) -> dict[str, bool | int | float | str]:
        """All settings under their flat names, in order of declaration."""
        return {name: value for section in asdict(self).values() for name, value in section.items()}

    def to_flower(self) -> dict[str, bool | int | float | str]:
        """All settings under the names of Flower's run config (`cut-ratio`, ...)."""
        return {name.replace("_", "-"): value for name, value in self.to_flat().items()}

    def shares_labels(self) -> bool:
        """Whether labels travel with the uploads: not if nothing is conditioned on them."""
        return self.split.share_labels and self.model.condition != "none"

    def cut_ratios(self) -> tuple[float, ...]:
        """The cut ratio of every client, in [0, 1]; strategies that do not cut are at an end, whatever is set."""
        text = self.split.client_cut_ratios
        if self.run.strategy not in SPLIT:
            return (ENDS.get(self.run.strategy, 1.0),) * self.run.num_supernodes
        if not text:
            return (self.split.cut_ratio,) * self.run.num_supernodes
        return tuple(float(part) for part in text.split(","))

    def cut_target(self) -> tuple[str, float] | None:
        """What clients choose their cut by, and its largest value; None where the settings say the cut."""
        given = [(name, text) for name in TARGETS if (text := getattr(self.split, name))]
        return (given[0][0], float(given[0][1])) if given else None

    def cut_steps(self) -> tuple[int, ...]:
        """The cut step k = round(c T) of every client (CollaFuse, arXiv 2406.14429, counts from the clean image)."""
        return tuple(round(c * self.model.timesteps) for c in self.cut_ratios())

    def client_devices(self) -> tuple[Device, ...]:
        """The device of every client; none where the settings name none."""
        if not self.hardware.devices:
            return ()
        limit = self.hardware.client_memory * 1e6 or math.inf
        devices = parse_devices(self.hardware.devices, self.run.num_supernodes)
        return tuple(d if d.memory < math.inf else replace(d, memory=limit) for d in devices)

    def server_device(self) -> Device:
        """What the server computes and sends with."""
        return Device("server", self.hardware.server_gflops * 1e9, self.hardware.server_link * 1e6)


def setting_names() -> tuple[str, ...]:
    """The flat names of all settings."""
    return tuple(f.name for kind in SECTIONS.values() for f in fields(kind))


def setting_help() -> dict[str, str]:
    """One line about every setting, with what is allowed."""
    return {f.name: f"{f.metadata['about']} ({allowed(f)})" for kind in SECTIONS.values() for f in fields(kind)}


def _check_together(config: Config) -> None:
    """Refuse settings that are fine alone but not together."""
    _check_target(config)
    _check_cuts(config)
    _check_devices(config)
    if config.run.strategy in GANS:
        check_gan(config.gan, config.hardware, config.model.condition, config.run.num_supernodes)
    data, n = config.data, config.run.num_supernodes
    if data.class_attribute and "celeba" not in data.dataset.split("+"):
        raise SettingError("class_attribute", data.class_attribute, "empty unless `dataset` is celeba")
    if data.overlap and data.partition != "by_attribute":
        raise SettingError("overlap", True, "false unless `partition` is by_attribute")
    dropped_classes(data)
    size_shares(data)
    if config.federation.min_supernodes > n:
        raise SettingError("min_supernodes", config.federation.min_supernodes, f"at most `num_supernodes` = {n}")
    if config.split.client_init_round > config.run.num_rounds:
        allowed = f"at most `num_rounds` = {config.run.num_rounds}, or clients would never train"
        raise SettingError("client_init_round", config.split.client_init_round, allowed)
    if config.split.upload == "official" and config.split.copies_per_image > 1:
        raise SettingError("copies_per_image", config.split.copies_per_image, "1 when `upload` is official")
    if 0 < config.split.max_releases < config.split.copies_per_image:
        allowed = f"0, or at least `copies_per_image` = {config.split.copies_per_image}"
        raise SettingError("max_releases", config.split.max_releases, allowed)
    if config.train.dp_noise_multiplier and config.run.strategy in CLEAN:
        allowed = f"0 when `strategy` is {config.run.strategy}, whose server sees clean images"
        raise SettingError("dp_noise_multiplier", config.train.dp_noise_multiplier, allowed)
    if config.train.dp_noise_multiplier and config.run.strategy in GANS:
        raise SettingError("dp_noise_multiplier", config.train.dp_noise_multiplier, "0 when `strategy` is a GAN's")
    check_guidance(config, config.evaluation.guidance)


def _check_target(config: Config) -> None:
    """Refuse more than one thing to choose the cut by, one that is out of range, and strategies that cannot."""
    given = [(name, getattr(config.split, name)) for name in TARGETS if getattr(config.split, name)]
    for name, text in given:
        low, high = TARGETS[name]
        bounds = f"a number above {low:g}" + (f" and at most {high:g}" if high < math.inf else "")
        try:
            value = float(text)
        except ValueError:
            raise SettingError(name, text, bounds) from None
        if not low < value <= high or math.isinf(value):
            raise SettingError(name, text, bounds)
    others = [name for name, _ in given[1:]] + ["client_cut_ratios"] * bool(config.split.client_cut_ratios)
    if given and others:
        raise SettingError(*given[0], f"empty when `{others[0]}` is given")
    if given and config.run.strategy not in MIXED:
        raise SettingError(*given[0], f"empty when `strategy` is {config.run.strategy}")


def _check_devices(config: Config) -> None:
    """Refuse devices that are unknown or not one per client, and a limit of time for devices that nobody named."""
    devices = config.client_devices()
    if config.split.cut_seconds and not devices:
        raise SettingError("cut_seconds", config.split.cut_seconds, "empty unless `devices` names the clients' devices")


def _check_cuts(config: Config) -> None:
    """Refuse lists that are not one cut per client, and cuts that would upload clean images without saying so."""
    text, n = config.split.client_cut_ratios, config.run.num_supernodes
    if text:
        try:
            ratios = config.cut_ratios()
        except ValueError:
            raise SettingError("client_cut_ratios", text, "numbers in [0, 1] separated by commas") from None
        if len(ratios) != n or not all(0 <= c <= 1 for c in ratios):
            raise SettingError("client_cut_ratios", text, f"{n} numbers in [0, 1], one per client")
    if text and config.run.strategy not in MIXED:
        raise SettingError("client_cut_ratios", text, f"empty when `strategy` is {config.run.strategy}")
    steps = config.model.timesteps
    for name, ratio in zip([("client_cut_ratios" if text else "cut_ratio")] * n, config.cut_ratios(), strict=True):
        if ratio > 0 and round(ratio * steps) == 0:
            raise SettingError(
                name, ratio, f"0, or more than {0.5 / steps:g}: less than a step would upload clean images"
            )


def check_guidance(config: Config, guidance: float) -> None:
    """Refuse guidance by networks that cannot tell what an image is like that they are told nothing about.

    Raises:
        SettingError: `guidance` is not 1, and `condition` is none or `label_dropout` 0.
    """
    if guidance != 1 and config.model.condition == "none":
        raise SettingError("guidance", guidance, "1 when `condition` is none")
    if guidance != 1 and not config.train.label_dropout:
        raise SettingError("guidance", guidance, "1 when `label_dropout` is 0: the networks know no dropped condition")
