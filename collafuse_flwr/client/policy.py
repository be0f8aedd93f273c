"""The limits of a data's owner: a file on the client's own disk, whoever runs the server.

    max_releases = 1          # policy.toml
    labels = true

A request beyond them is refused in one line that names the limit and holds no data, before anything is computed. A
deployed client without a file has the defaults here; a simulation, where one person owns both sides, has no limits
unless `policy` names a file.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from collafuse_flwr.config.config import SETTINGS, Config
from collafuse_flwr.core.errors import PolicyError, SettingError, UploadError, UserError
from collafuse_flwr.core.fields import Texts, coerce, setting
from collafuse_flwr.data.settings import changed_reading
from collafuse_flwr.privacy.exposure import Exposure
from collafuse_flwr.setup.privacy import weight_protections
from collafuse_flwr.wire.collafuse import SampleHandoff
from collafuse_flwr.wire.validation import check_samples

M = TypeVar("M")
#: How every refusal begins.
BEYOND = "beyond the policy of this client's owner"
#: Numbers about its images that a client reports, and the cut that it chooses by them.
NUMBERS = ("loss", "generator_loss", "held_out_loss", "kernel_distance", "bits", "seconds", "cut")
#: Those that are rounded to whole numbers; others to `number_step`.
_WHOLE = ("bits", "seconds", "cut")
#: What a cut may be limited by that hangs on the images.
_FROM_IMAGES = ("bits", "reid")


@dataclass(frozen=True)
class Policy:
    """What may be requested of a client."""

    strategies: Texts = setting((), "strategies that may run; empty: all that send nothing else than may leave")
    imports: Texts = setting((), "package.module:name of what settings may have the client import; empty: nothing")
    datasets: Texts = setting((), "kinds of data set (`dataset`) that the images may be read as; empty: all")
    reading: Texts = setting((), "settings by which files become images, as name=value; others are at their default")
    codec: str = setting("", "SHA-256 of the public codec whose latents may be released; empty: only pixels may")
    max_snr_db: float = setting(
        10.0, "largest signal-to-noise ratio of a release in dB, of the images' own values: clean ones never leave"
    )
    min_cut_ratio: float = setting(0.0, "smallest cut ratio of a release", low=0, high=1)
    max_releases: int = setting(1, "releases of an image with noise of their own, ever; 0: none", low=0)
    max_epsilon: float = setting(0.0, "epsilon of uploads, DP-SGD and weights together, ever; 0: no limit", low=0)
    delta: float = setting(1e-5, "delta of `max_epsilon`", above=0, high=0.5)
    labels: bool = setting(False, "labels may leave, with releases or in what a GAN sends")
    weights: str = setting("never", "weights may leave", choices=("never", "dp_sgd", "client_dp", "always"))
    activations: bool = setting(False, "activations and gradients at a split GAN's cuts may leave")
    max_activation_rounds: int = setting(100, "rounds, and evaluations, with activations, ever; 0: no limit", low=0)
    min_activation_noise: float = setting(0.0, "least standard deviation of the noise on activations", low=0)
    min_discriminator_blocks: int = setting(0, "least extra blocks of the discriminator on images", low=0)
    numbers: Texts = setting((), "numbers about the images that are reported", choices=NUMBERS)
    min_number_images: int = setting(100, "least images that a number is the average of", low=1)
    number_step: float = setting(0.05, "numbers are rounded to multiples of this; bits and seconds to ones", above=0)
    max_number: float = setting(
        10.0, "numbers are clipped to this, a loss for each image before it is averaged; not bits and seconds", above=0
    )
    max_reports: int = setting(1000, "answers with such numbers, ever; 0: no limit", low=0)
    min_images: int = setting(10, "least training images", low=1)
    min_batch_size: int = setting(8, "least images in a batch", low=1)
    min_steps: int = setting(1, "least optimiser steps of a round that trains at all", low=1)
    max_steps: int = setting(100_000, "most optimiser steps of a GAN's round", low=1)
    min_image_size: int = setting(0, "least pixels a side", low=0)
    max_image_size: int = setting(1024, "most pixels a side; 0: no limit", low=0)
    max_samples: int = setting(10_000, "most samples of an evaluation, or of a hand-over to generate from", low=1)
    max_generated: int = setting(10_000, "most generated images that lie in its state; 0: none are made", low=0)

    @classmethod
    def load(cls, path: Path) -> Policy:
        """Read a policy.

        Raises:
            UserError: there is none, or it is no TOML.
            SettingError: a name is unknown, a value is not allowed, or nothing bounds the noise of DP-SGD.
        """
        try:
            limits = tomllib.loads(path.read_text())
        except OSError as error:
            raise UserError(f"the policy {path} cannot be read: {error.strerror}") from None
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"the policy {path} is no TOML: {error}") from None
        declared = {own.name: own for own in fields(cls)}
        if unknown := limits.keys() - declared.keys():
            name = min(unknown)
            raise SettingError(f"policy.{name}", limits[name], f"one of {', '.join(declared)}")
        # A setting's list of choices must hold one of them, a limit's may hold none.
        values: dict[str, Any] = {
            n: () if value == [] else coerce(declared[n], f"policy.{n}", value) for n, value in limits.items()
        }
        policy = cls(**values)
        if policy.weights in ("dp_sgd", "client_dp") and not policy.max_epsilon:  # with little noise gradients leave
            raise SettingError("policy.max_epsilon", policy.max_epsilon, f"> 0 when `weights` is {policy.weights}")
        return policy

    def check_imports(self, run_config: Mapping[str, Any]) -> None:
        """Refuse settings that would import what the owner has not named; they must not be read before.

        Raises:
            PolicyError: there is one.
        """
        for name, value in run_config.items():
            group, spec = SETTINGS.get(name.replace("-", "_"), ("", None))
            if spec is not None and spec.metadata["or_path"] and group != "public":  # which the server alone loads
                paths = coerce(spec, name, value)
                names = (paths,) if isinstance(paths, str) else paths
                self._hold("imports", all(name in self.imports for name in names if ":" in name))

    def check_settings(self, config: Config, client: int) -> None:
        """Refuse what the settings of a run alone show to be beyond the limits.

        Raises:
            PolicyError: something is.
        """
        spec, own = config.spec, self._hold
        own("strategies", not self.strategies or config.run.strategy in self.strategies)
        own("datasets", not self.datasets or set(config.data.dataset) <= set(self.datasets))
        # Read in another way, an image would be another one, which has not been released yet.
        own("reading", changed_reading(config.data) == set(self.reading))
        own("codec", config.data.codec in ("", f"sha256:{self.codec}"))
        if config.data.image_size:
            # Before images are decoded at that size.
            self._check_size(config.data.image_size)
        if "weights" in spec.sends:
            self.check_weights(weight_protections(config))
        if {"activations", "gradients"} & set(spec.sends):
            own("activations", self.activations)
            own("min_activation_noise", config.split_gan.activation_noise >= self.min_activation_noise)
        # The heads of both nets are given them, and of weights the row of a class moves in a step that has seen it.
        own("labels", self.labels or not spec.is_gan)
        own("max_samples", config.evaluation.num_samples <= self.max_samples)
        own("min_batch_size", (config.gan if spec.is_gan else config.client).batch_size >= self.min_batch_size)
        if "images" in spec.sends:
            own("labels", self.labels or not config.shares_labels())
            # Before so many draws are counted one by one.
            own("max_releases", config.upload.draws_per_image <= max(1, self.max_releases))
            target = config.cut_target()
            chooses = config.recuts() or config.sampling.handover == "best"
            own("numbers", "cut" in self.numbers or not (chooses or (target and target[0] in _FROM_IMAGES)))
            if config.cut.policy == "fixed":
                own("min_cut_ratio", config.cut_ratios()[client] >= self.min_cut_ratio)

    def check_source(self, config: Config, path: str) -> None:
        """Refuse other images than those at the owner's path, and these more than once.

        The same images several times would have as many noise paths, and public ones would hide how few are private.

        Raises:
            PolicyError: the settings read them.
        """
        if len(config.data.dataset) != 1 or config.data.name == "digits" or not path:
            raise PolicyError(f"{BEYOND}: `dataset` is one kind that is read from a path")

    def check_images(self, count: int, size: int) -> None:
        """Refuse too few images, or images of another size.

        Raises:
            PolicyError: they are.
        """
        self._hold("min_images", count >= self.min_images)
        self._check_size(size)

    def check_release(self, snr: float, cut_ratio: float, after: Exposure) -> None:
        """Refuse a release with too little noise, or one too many.

        Args:
            snr: of the images' own values (`Release.native_snr`).
            cut_ratio: c.
            after: what will have left of its images.

        Raises:
            PolicyError: it is.
        """
        self._hold("max_snr_db", snr <= 10 ** (self.max_snr_db / 10))
        self._hold("min_cut_ratio", cut_ratio >= self.min_cut_ratio)
        self._hold("max_releases", after.releases <= self.max_releases)
        self._check_epsilon(after)

    def check_handoff(self, snr: float, handoff: SampleHandoff, shape: tuple[int, int, int, int]) -> None:
        """Refuse samples at a cut where nothing may be released, too many, or such that an answer would say more.

        Args:
            snr: of the images' own values in a release at the cut.
            handoff: the samples.
            shape: channels and side of the images, classes, and attributes that networks are conditioned on.

        Raises:
            PolicyError: they are.
        """
        self._hold("max_snr_db", snr <= 10 ** (self.max_snr_db / 10))
        try:
            check_samples(handoff.x_k, handoff.labels, shape)
        except UploadError as error:
            raise PolicyError(f"{BEYOND}: {error}") from None
        self._hold("max_samples", 1 <= len(handoff.x_k) <= self.max_samples)

    def check_generation(self, count: int, kept: int) -> None:
        """Refuse to finish and keep `count` images beside those that are `kept` already.

        Raises:
            PolicyError: they are too many.
        """
        self._hold("max_samples", 1 <= count <= self.max_samples)
        self._hold("max_generated", kept + count <= self.max_generated)

    def check_requested_label(self) -> None:
        """Refuse to say of which class the owner itself wants images.

        Raises:
            PolicyError: labels may not leave.
        """
        self._hold("labels", self.labels)

    def check_split(self, blocks: int) -> None:
        """Refuse activations too near to the images: after fewer extra `blocks` of the discriminator's head.

        Raises:
            PolicyError: they are.
        """
        self._hold("min_discriminator_blocks", blocks >= self.min_discriminator_blocks)

    def check_training(self, steps: int, after: Iterable[Exposure]) -> None:
        """Refuse a round of too few steps, or beyond the budget: `after` is what will have left of images.

        Raises:
            PolicyError: it is.
        """
        self._hold("min_steps", steps == 0 or steps >= self.min_steps)
        for exposure in after:
            self._check_epsilon(exposure)

    def check_weights(self, met: Collection[str]) -> None:
        """Refuse weights that may not leave: they have `met` other values of `weights` (`weight_protections`), or none.

        Raises:
            PolicyError: they may not.
        """
        self._hold("weights", self.weights in {"always", *met})

    def check_activation_rounds(self, before: int) -> None:
        """Refuse another round of activations, or samples begun with them, after so many `before`.

        Raises:
            PolicyError: they are too many.
        """
        self._hold("max_activation_rounds", not self.max_activation_rounds or before < self.max_activation_rounds)

    def check_steps(self, steps: int) -> None:
        """Refuse more `steps` in a round.

        Raises:
            PolicyError: they are too many.
        """
        self._hold("max_steps", steps <= self.max_steps)

    def reported(self, metrics: M, images: Mapping[str, int], before: int) -> M:
        """A message's numbers as they may leave: clipped and rounded, or None.

        Args:
            metrics: a dataclass of numbers.
            images: how many images each number is an average of; those that say nothing of images are absent.
            before: answers with numbers that have left.
        """
        may = not self.max_reports or before < self.max_reports
        held = {name: getattr(metrics, name) for name in NUMBERS if hasattr(metrics, name)}
        own = {name: self._coarse(name, value, images.get(name)) if may else None for name, value in held.items()}
        result: M = replace(metrics, **own)  # type: ignore[type-var]
        return result

    def _coarse(self, name: str, value: float | None, images: int | None) -> float | None:
        few = images is not None and images < self.min_number_images
        if value is None or name not in self.numbers or few:
            return None
        if name in _WHOLE:
            return float(math.ceil(value)) if math.isfinite(value) else value
        if math.isnan(value):
            # An error would be a bit about the images, at weights of the operator's choice.
            return self.max_number
        return round(max(-self.max_number, min(value, self.max_number)) / self.number_step) * self.number_step

    def _check_size(self, size: int) -> None:
        self._hold("min_image_size", size >= self.min_image_size)
        self._hold("max_image_size", not self.max_image_size or size <= self.max_image_size)

    def _check_epsilon(self, after: Exposure) -> None:
        self._hold("max_epsilon", not self.max_epsilon or after.epsilon(self.delta) <= self.max_epsilon)

    def _hold(self, limit: str, within: bool) -> None:
        if not within:
            value = getattr(self, limit)
            raise PolicyError(f"{BEYOND}: `{limit}` = {list(value) if isinstance(value, tuple) else value}")
