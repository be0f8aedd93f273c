"""The settings of a run: frozen dataclasses, validated once, flat on the command line.

Every default lives here and nowhere else. Hydra reads this schema directly; the copy that Flower needs in
`pyproject.toml` is compared with it by a test. A name maps to Flower's run config by `_` -> `-`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from collafuse_flwr.errors import SettingError

T = TypeVar("T")

#: CollaFuse, and what differs from it by little: clipped uploads, clients' denoisers that are averaged too, or a server
#: that sees clean images (a yardstick for simulations).
SPLIT = ("collafuse", "pfdm", "hybrid", "oracle")
#: Those whose clients may differ in their cuts.
MIXED = ("collafuse", "pfdm", "hybrid")
#: Presets of networks, from the smallest.
MODELS = ("nano", "tiny", "small", "base", "paper")
#: CollaFuse's two ends: everything in the clients (c = 1), or clean images on the server (c = 0).
ENDS = {"local": 1.0, "centralised": 0.0}
#: Whole chains in the clients, whose weights are averaged, all or in part.
FEDERATED = ("fedavg", "fedprox", "usplit", "ulatdec", "udec")


def _setting(
    default: T,
    about: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
    or_path: bool = False,
) -> T:
    """Declare a setting: its default, one line about it, and the range or choices allowed (or package.module:name)."""
    meta = {"about": about, "low": low, "high": high, "above": above, "choices": choices, "or_path": or_path}
    default_field: Any = field(default=default, metadata=meta)
    result: T = default_field
    return result


@dataclass(frozen=True)
class RunConfig:
    """What is run, where it goes and how it is started."""

    strategy: str = _setting("collafuse", "the algorithm", choices=(*SPLIT, *ENDS, *FEDERATED))
    seed: int = _setting(0, "seeds every random stream of the run", low=0)
    num_rounds: int = _setting(10, "rounds of the federation", low=1)
    num_supernodes: int = _setting(10, "clients (SuperNodes)", low=1)
    runner: str = _setting("ray", "what runs the clients", choices=("ray", "local", "flwr"))
    output: str = _setting("", "the run's folder; empty: a new one below runs/")
    resume: bool = _setting(False, "continue the run in `output`")
    quiet: bool = _setting(False, "plain log lines instead of a progress bar")
    device: str = _setting("auto", "where networks run", choices=("auto", "cpu", "cuda", "mps"))
    precision: str = _setting("auto", "arithmetic of the networks", choices=("auto", "float32", "bfloat16"))


@dataclass(frozen=True)
class FederationConfig:
    """Who takes part, and what a client may use of the machine."""

    fraction_train: float = _setting(1.0, "share of the clients asked in each round", above=0, high=1)
    min_supernodes: int = _setting(0, "clients to wait for before the first round; 0: all", low=0)
    round_timeout: float = _setting(3600.0, "seconds to wait for the clients of a round", above=0)
    proximal_mu: float = _setting(0.01, "FedProx's pull towards the global weights", low=0)
    client_num_cpus: float = _setting(1.0, "CPUs per client in Ray", above=0)
    client_num_gpus: float = _setting(0.0, "GPUs per client in Ray; fractions share a card", low=0)
    client_threads: int = _setting(1, "torch threads of a client", low=1)
    server_threads: int = _setting(0, "torch threads of the server; 0: all cores", low=0)


@dataclass(frozen=True)
class DataConfig:
    """Which images there are and who holds them."""

    dataset: str = _setting(
        "digits", "the images", choices=("digits", "imagefolder", "npz", "mnist", "fashion_mnist", "kmnist")
    )
    dataset_path: str = _setting("", "folder or file of the data set; digits needs none")
    image_size: int = _setting(0, "images are resized to this many pixels a side; 0: their own size", low=0)
    max_images: int = _setting(0, "use only this many images, drawn by seed; 0: all", low=0)
    partition: str = _setting("dirichlet", "how images are dealt", choices=("iid", "dirichlet", "by_class"))
    dirichlet_alpha: float = _setting(0.3, "concentration of the Dirichlet partition", above=0)
    classes_per_client: int = _setting(2, "classes that a client of `by_class` holds", low=1)
    held_out: float = _setting(0.2, "share of each client's images that is never trained on", above=0, high=0.9)


@dataclass(frozen=True)
class ModelConfig:
    """The networks and the diffusion process that both sides share."""

    model: str = _setting("tiny", "preset of the backbone", choices=MODELS, or_path=True)
    client_model: str = _setting("same", "preset of the clients' denoisers", choices=("same", *MODELS), or_path=True)
    conditional: bool = _setting(True, "condition on class labels")
    timesteps: int = _setting(100, "T, the steps of the diffusion process", low=2, high=10000)
    schedule: str = _setting("cosine", "the noise schedule", choices=("cosine", "linear", "sigmoid"))
    prediction: str = _setting("v", "what the networks predict", choices=("eps", "v"))


@dataclass(frozen=True)
class SplitConfig:
    """Where the diffusion process is cut and what crosses the cut."""

    cut_ratio: float = _setting(0.2, "c, the clients' share of the T steps", low=0, high=1)
    client_cut_ratios: str = _setting("", "one cut ratio per client, as '0.1,0.2,...'; empty: `cut_ratio` for all")
    clip_norm: float = _setting(
        0.0, "L2 norm to which images are clipped before they are noised; 0: none, or pfdm's own", low=0
    )
    upload: str = _setting("once", "how often an image's noise is drawn", choices=("once", "fresh", "official"))
    copies_per_image: int = _setting(1, "noised copies of each image that are released", low=1)
    upload_dtype: str = _setting("int8", "precision of uploads", choices=("int8", "float16", "float32"))
    share_labels: bool = _setting(True, "class labels travel with the uploads")
    effort: str = _setting("proportional", "image updates of a client", choices=("proportional", "full"))
    client_init: str = _setting("backbone", "start of a client's denoiser", choices=("random", "backbone"))
    client_init_round: int = _setting(0, "round in which clients take the backbone; 0: chosen", low=0)


@dataclass(frozen=True)
class TrainConfig:
    """How both sides are optimised."""

    budget: str = _setting(
        "image_updates", "what strategies have in common", choices=("image_updates", "client_flops", "traffic")
    )
    server_effort: float = _setting(1.0, "the backbone's image updates, in multiples of its share", above=0)
    local_epochs: float = _setting(10.0, "passes over the images that a full DDPM would make in a round", above=0)
    batch_size: int = _setting(128, "images in a batch of the server", low=1)
    client_batch_size: int = _setting(8, "images in a batch of a client", low=1)
    learning_rate: float = _setting(2e-3, "Adam's step size", above=0)
    lr_schedule: str = _setting("cosine", "learning rate over the rounds", choices=("constant", "cosine"))
    ema_decay: float = _setting(0.999, "decay of the averaged weights that sample", low=0, high=1)
    loss_weighting: str = _setting("uniform", "weight of a step in the loss", choices=("uniform", "min_snr"))
    min_snr_gamma: float = _setting(5.0, "gamma of min-SNR weighting", above=0)


@dataclass(frozen=True)
class EvaluationConfig:
    """What is sampled and measured."""

    evaluate_every: int = _setting(0, "rounds between evaluations; 0: only after the last", low=0)
    num_samples: int = _setting(2000, "images generated in an evaluation, over all clients", low=2)
    tstr: str = _setting("clients", "whose samples train a classifier", choices=("clients", "pooled", "none"))
    sampler: str = _setting("dpm++", "the sampler", choices=("ddpm", "ddim", "dpm++"))
    sampling_steps: int = _setting(40, "sampling steps of the whole chain; 0: every step", low=0)
    server_steps: int = _setting(0, "sampling steps above the cut; 0: its share of `sampling_steps`", low=0)
    client_steps: int = _setting(0, "sampling steps below the cut; 0: its share of `sampling_steps`", low=0)


_SECTIONS: dict[str, type[Any]] = {
    "run": RunConfig,
    "federation": FederationConfig,
    "data": DataConfig,
    "model": ModelConfig,
    "split": SplitConfig,
    "train": TrainConfig,
    "evaluation": EvaluationConfig,
}


@dataclass(frozen=True)
class Config:
    """All settings of a run, by section; names are unique over the sections."""

    run: RunConfig = field(default_factory=RunConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
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
            section: kind(**{f.name: _coerce(f, given[f.name]) for f in fields(kind) if f.name in given})
            for section, kind in _SECTIONS.items()
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

    def cut_ratios(self) -> tuple[float, ...]:
        """The cut ratio of every client, in [0, 1]; strategies that do not cut are at an end, whatever is set."""
        text = self.split.client_cut_ratios
        if self.run.strategy not in SPLIT:
            return (ENDS.get(self.run.strategy, 1.0),) * self.run.num_supernodes
        if not text:
            return (self.split.cut_ratio,) * self.run.num_supernodes
        return tuple(float(part) for part in text.split(","))

    def cut_steps(self) -> tuple[int, ...]:
        """The cut step k = round(c T) of every client (CollaFuse, arXiv 2406.14429, counts from the clean image)."""
        return tuple(round(c * self.model.timesteps) for c in self.cut_ratios())


def setting_names() -> tuple[str, ...]:
    """The flat names of all settings."""
    return tuple(f.name for kind in _SECTIONS.values() for f in fields(kind))


def setting_help() -> dict[str, str]:
    """One line about every setting, with what is allowed."""
    return {f.name: f"{f.metadata['about']} ({_allowed(f)})" for kind in _SECTIONS.values() for f in fields(kind)}


def _allowed(spec: Any) -> str:
    meta = spec.metadata
    if meta["choices"]:
        return f"one of {', '.join(meta['choices'])}" + (", or package.module:factory" if meta["or_path"] else "")
    kind = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "text"}[spec.type]
    bounds = [
        f"{word} {meta[key]:g}"
        for key, word in (("low", ">="), ("above", ">"), ("high", "<="))
        if meta[key] is not None
    ]
    return " ".join([kind, " and ".join(bounds)]).strip()


_KINDS: dict[str, Callable[[object], bool]] = {
    "bool": lambda v: isinstance(v, bool),
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "float": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) <= sys.float_info.max,
    "str": lambda v: isinstance(v, (str, int, float)) and not isinstance(v, bool),
}
_CASTS: dict[str, Callable[[Any], Any]] = {"bool": bool, "int": int, "float": float, "str": str}


def _coerce(spec: Any, value: Any) -> Any:
    """Check one value against its declaration; ints pass as floats, numbers as text."""
    meta = spec.metadata
    if not _KINDS[spec.type](value):
        raise SettingError(spec.name, value, _allowed(spec))
    value = _CASTS[spec.type](value)
    low, above, high = meta["low"], meta["above"], meta["high"]
    out_of_range = (
        (low is not None and value < low)
        or (above is not None and value <= above)
        or (high is not None and value > high)
    )
    unknown = meta["choices"] and value not in meta["choices"] and not (meta["or_path"] and ":" in value)
    if out_of_range or unknown:
        raise SettingError(spec.name, value, _allowed(spec))
    return value


def _check_together(config: Config) -> None:
    """Refuse settings that are fine alone but not together."""
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
    if config.federation.min_supernodes > n:
        raise SettingError("min_supernodes", config.federation.min_supernodes, f"at most `num_supernodes` = {n}")
    if config.split.client_init_round > config.run.num_rounds:
        allowed = f"at most `num_rounds` = {config.run.num_rounds}, or clients would never train"
        raise SettingError("client_init_round", config.split.client_init_round, allowed)
    if config.split.upload == "official" and config.split.copies_per_image > 1:
        raise SettingError("copies_per_image", config.split.copies_per_image, "1 when `upload` is official")
