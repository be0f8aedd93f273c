"""All settings of a run, by public names and back."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any

from collafuse_flwr.config.devices import Device, parse_devices
from collafuse_flwr.config.run import FederationConfig, ResourcesConfig, RunConfig
from collafuse_flwr.config.strategies import MATCHED, StrategySpec, strategy_spec
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.fields import Plain, allowed, coerce, plain
from collafuse_flwr.data.settings import DataConfig, PublicConfig
from collafuse_flwr.diffusion.settings import (
    ClientConfig,
    DeconvolutionConfig,
    DiffusionConfig,
    FedProxConfig,
    GenerateConfig,
    SamplingConfig,
    ServerConfig,
    TrainConfig,
)
from collafuse_flwr.evaluation.settings import EvaluationConfig
from collafuse_flwr.gan.settings import (
    ClusteringConfig,
    CutPlannerConfig,
    DevicesConfig,
    GanConfig,
    HflGanConfig,
    MdGanConfig,
    PflGanConfig,
    SplitGanConfig,
)
from collafuse_flwr.privacy.settings import AveragingConfig, CutConfig, DpConfig, UploadConfig


@dataclass(frozen=True)
class Config:
    """All settings of a run, by group; the public name of a setting is group.name, or the name alone at the top."""

    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    public: PublicConfig = field(default_factory=PublicConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    cut: CutConfig = field(default_factory=CutConfig)
    upload: UploadConfig = field(default_factory=UploadConfig)
    client: ClientConfig = field(default_factory=ClientConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    deconvolution: DeconvolutionConfig = field(default_factory=DeconvolutionConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    dp: DpConfig = field(default_factory=DpConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    averaging: AveragingConfig = field(default_factory=AveragingConfig)
    fedprox: FedProxConfig = field(default_factory=FedProxConfig)
    gan: GanConfig = field(default_factory=GanConfig)
    split_gan: SplitGanConfig = field(default_factory=SplitGanConfig)
    clustering: ClusteringConfig = field(default_factory=ClusteringConfig)
    mdgan: MdGanConfig = field(default_factory=MdGanConfig)
    pfl_gan: PflGanConfig = field(default_factory=PflGanConfig)
    hfl_gan: HflGanConfig = field(default_factory=HflGanConfig)
    devices: DevicesConfig = field(default_factory=DevicesConfig)
    cut_planner: CutPlannerConfig = field(default_factory=CutPlannerConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)

    @classmethod
    def from_flat(cls, flat: Mapping[str, object]) -> Config:
        """Build and validate the settings from public names, with `_` or `-`; absent ones take their default.

        Raises:
            SettingError: a name is unknown, or a value has the wrong type, is out of range, or is not the default
                although the strategy does not read it.
        """
        config = _unchecked(flat)
        for name, value in config.to_flat().items():
            if value != DEFAULTS[name] and (reason := config.unread(name)):
                raise SettingError(name, value, f"{DEFAULTS[name]!r}, its default, {reason}")
        # The checks need the settings, which they are part of.
        from collafuse_flwr.config.checks import check_together  # noqa: PLC0415

        check_together(config)
        return config

    @property
    def spec(self) -> StrategySpec:
        """The strategy."""
        return strategy_spec(self.run.strategy)

    def get(self, name: str) -> Plain:
        """The value of a setting by its public name."""
        group, spec = SETTINGS[name]
        return plain(getattr(getattr(self, group), spec.name), str(spec.type))

    def to_flat(self) -> dict[str, Plain]:
        """All settings under their public names, in order of declaration."""
        return {name: self.get(name) for name in SETTINGS}

    def to_nested(self) -> dict[str, Plain]:
        """All settings as YAML has them: those of a group below its name."""
        nested: dict[str, Plain] = {}
        for name, value in self.to_flat().items():
            group, _, own = name.rpartition(".")
            (nested.setdefault(group, {}) if group else nested)[own] = value
        return nested

    def to_flower(self) -> dict[str, bool | int | float | str]:
        """All settings under the names of Flower's run config (`cut-ratio`, `gan.batch-size`), lists as JSON text."""
        return {
            name.replace("_", "-"): json.dumps(value) if isinstance(value, list) else value
            for name, value in self.to_flat().items()
        }

    def evaluates(self, round_: int) -> bool:
        """Whether a round is evaluated: the last one, and those that `evaluation.every` names."""
        every = self.evaluation.every
        return round_ >= self.run.num_rounds or bool(every and round_ % every == 0)

    def strategy_reads(self, name: str) -> bool:
        """Whether the strategy reads a setting, be it to be given as much as CollaFuse (`train.match`)."""
        matched = MATCHED.get(self.train.match, ()) if self.spec.can_match(self.train.match) else ()
        return name in matched or self.spec.reads_setting(SETTINGS[name][0], name)

    def unread(self, name: str) -> str:
        """Why a run with these settings does not read one of them; empty if it does."""
        if self.run.task == "generate" and name not in READ_TO_GENERATE:
            return "as `task` = generate takes the settings of the run in `output`"
        if not self.strategy_reads(name):
            return f"as `strategy` = {self.run.strategy} does not read it"
        external = ":" in self.diffusion.model
        if name == "model" and self.spec.is_gan and not external:
            return "as a GAN takes no preset, but `gan.width` and `gan.depth`, or package.module:factory"
        if name in {"gan.width", "gan.depth", "split_gan.spectral_norm", "split_gan.condition_at"} and external:
            return "as `model` = package.module:factory describes the networks"
        alternatives = SETTINGS[name][1].metadata["when"]
        if alternatives and not any(self._has(wanted) for wanted in alternatives):
            wanted = " or ".join(
                " and ".join(f"`{other}` is {value}" for other, value in alternative.items())
                for alternative in alternatives
            )
            return f"unless {wanted}"
        return ""

    def _has(self, wanted: Mapping[str, object]) -> bool:
        return all(self.get(name) == value for name, value in wanted.items())

    def shares_labels(self) -> bool:
        """Whether labels travel with the uploads: not if nothing is conditioned on them."""
        return self.upload.share_labels and self.data.conditioning != "none"

    def cut_ratios(self) -> tuple[float, ...]:
        """The cut ratio of every client, in [0, 1]; strategies that do not cut are at an end."""
        if self.spec.fixed_cut is not None:
            return (self.spec.fixed_cut,) * self.run.num_supernodes
        return self.cut.client_ratios or (self.cut.cut_ratio,) * self.run.num_supernodes

    def cut_target(self) -> tuple[str, float] | None:
        """What a cut is limited by, and its largest value; None where nothing limits it."""
        if self.cut.policy == "by_device":
            return "seconds", self.cut.target
        return None if self.cut.criterion == "none" else (self.cut.criterion, self.cut.target)

    def recuts(self) -> bool:
        """Whether clients may move to another cut in the middle of a run."""
        return self.cut.policy == "adaptive"

    def cuts_of(self, client: int) -> Sequence[int]:
        """The cut steps that a client may have, whatever its images and device are; the largest one last."""
        if self.recuts():
            return sorted({round(c * self.diffusion.timesteps) for c in self.cut.choices})
        return [self.cut_steps()[client]] if self.cut.policy == "fixed" else range(1, self.diffusion.timesteps)

    def cut_steps(self) -> tuple[int, ...]:
        """The cut step k = round(c T) of every client (CollaFuse, arXiv 2406.14429, counts from the clean image)."""
        return tuple(round(c * self.diffusion.timesteps) for c in self.cut_ratios())

    def client_devices(self) -> tuple[Device, ...]:
        """The device of every client; none where the settings list none."""
        if not self.devices.profiles:
            return ()
        limit = self.devices.client_memory_mb * 1e6 or math.inf
        devices = parse_devices(self.devices.profiles, self.run.num_supernodes)
        return tuple(d if d.memory < math.inf else replace(d, memory=limit) for d in devices)

    def server_device(self) -> Device:
        """What the server computes and sends with."""
        return Device("server", self.devices.server_gflops * 1e9, self.devices.server_mb_per_s * 1e6)


def _settings() -> Iterator[tuple[str, tuple[str, Field[Any]]]]:
    """Public name -> group and declaration, those at the top first."""
    every = [(group, spec) for group, kind in GROUPS.items() for spec in fields(kind)]
    for group, spec in sorted(every, key=lambda one: not one[1].metadata["top"]):
        yield (spec.name if spec.metadata["top"] else f"{group}.{spec.name}"), (group, spec)


#: The dataclass of every group.
GROUPS: dict[str, type[Any]] = {spec.name: spec.default_factory for spec in fields(Config)}  # type: ignore[misc]
#: Every setting: public name -> its group and declaration.
SETTINGS: dict[str, tuple[str, Field[Any]]] = dict(_settings())
#: What `task` = generate reads; everything else is as in the run that has trained.
READ_TO_GENERATE = frozenset(
    {"task", "output", "runner", "num_supernodes", "quiet", "policy"}
    | {"federation.min_available_nodes", "federation.round_timeout"}
    | {"resources.client_num_cpus", "resources.client_num_gpus"}
    | {name for name, (group, _) in SETTINGS.items() if group == "generate"}
)
#: Every setting's default, as YAML has it.
DEFAULTS: dict[str, Plain] = Config().to_flat()


def _unchecked(flat: Mapping[str, object]) -> Config:
    """The settings, each held to its own declaration but not to the others."""
    groups: dict[str, dict[str, Any]] = {}
    for key, value in flat.items():
        name = key.replace("-", "_")
        if name not in SETTINGS:
            raise SettingError(name, value, no_such_setting(name))
        group, spec = SETTINGS[name]
        groups.setdefault(group, {})[spec.name] = coerce(spec, name, value)
    return Config(**{group: GROUPS[group](**values) for group, values in groups.items()})


def no_such_setting(name: str) -> str:
    """What is said of a name that no setting has: the nearest ones."""
    # One at the top before one of a group that is called as it is.
    by_last = {own.rpartition(".")[2]: own for own in sorted(SETTINGS, key=lambda own: "." not in own)}
    close = difflib.get_close_matches(name, SETTINGS, n=3, cutoff=0.7)
    close += [by_last[last] for last in difflib.get_close_matches(name.rpartition(".")[2], by_last, n=2)]
    meant = " or ".join(f"`{setting_name}`" for setting_name in dict.fromkeys(close))
    return "no such setting" + (f"; did you mean {meant}?" if meant else "") + " (--help lists all)"


def without_unread(flat: Mapping[str, object], explicit: Collection[str] = ()) -> dict[str, object]:
    """Settings with those at their default that the strategy does not read, except what was given explicitly.

    So a recipe serves several strategies, and a sweep over strategies makes no run twice.

    Raises:
        SettingError: as `Config.from_flat`, for what is read.
    """
    kept = dict(flat)
    while True:
        config = _unchecked(kept)
        dropped = [
            name
            for name, value in config.to_flat().items()
            if value != DEFAULTS[name] and name not in explicit and config.unread(name)
        ]
        if not dropped:
            return kept
        # What was dropped may be what another setting depends on.
        kept = {name: value for name, value in kept.items() if name.replace("-", "_") not in dropped}


def setting_help(config: Config | None = None) -> dict[str, str]:
    """One line about every setting, with what is allowed; only those that a run with such a config reads, if given."""
    return {
        name: f"{spec.metadata['about']} ({allowed(spec)})"
        for name, (_, spec) in SETTINGS.items()
        if config is None or config.strategy_reads(name)
    }
