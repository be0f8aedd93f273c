"""How good generated images are, per client and pooled, in the features of a classifier of the real ones.

FD and KD are in those features. FID, KID and CLIP-FID, in the features of published networks, are measured besides
where the settings name their weights. Fréchet distances of few images are biased upwards, most of all those of fewer
images than there are features (2048 of Inception, 512 of CLIP), whose covariances lack ranks: they compare only with
distances of equally many images.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from collafuse_flwr.config import Config
from collafuse_flwr.data import FederationData, evenly
from collafuse_flwr.evaluation import (
    ImageClassifier,
    PretrainedFeatures,
    accuracy,
    extract_features,
    frechet_distance,
    kernel_distance,
    measure_coverage,
    pretrained_networks,
    train_classifier,
    train_synthetic_test_real,
)
from collafuse_flwr.evaluation.pretrained import BATCH
from collafuse_flwr.runtime import choose_runtime

#: Images on either side that a distance and the nearest neighbours of coverage need.
MIN_DISTANCE, MIN_COVERAGE = 2, 6
#: The judge is the same for every run on the same images, whatever the run's seed.
JUDGE_SEED = 0

#: Features (n, d) of some images, by network: `classifier`, and `inception` and `clip` where their weights are there.
Features = dict[str, Tensor]


@dataclass(frozen=True)
class Samples:
    """Generated images in [-1, 1], shape (n, channels, size, size), and the class of each (-1: unknown)."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Judge:
    """A classifier of the real training images, whose features and accuracy are the yardstick, and published networks.

    Images stay uint8 where they are, and are scaled batch by batch.
    """

    data: FederationData
    classifier: ImageClassifier
    published: dict[str, PretrainedFeatures]
    device: torch.device
    tstr: str

    @classmethod
    def trained_on(cls, data: FederationData, config: Config) -> Judge:
        """Train the judge on all clients' training images, and load the networks that the settings name.

        Raises:
            SettingError: as `pretrained_networks`.
        """
        published = pretrained_networks(config.evaluation)
        device = choose_runtime(config.run.device, config.run.precision).device
        rows = torch.cat([partition.train for partition in data.partitions]).sort().values
        images = data.images
        classifier = train_classifier(
            images.images, images.labels, images.num_classes, JUDGE_SEED, rows=rows, device=device
        )
        published = {name: network.to(device) for name, network in published.items()}
        return cls(data, classifier, published, device, config.evaluation.tstr)

    def measure(self, samples: dict[int, Samples]) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
        """Quality of all clients' samples together, and of each client's against its own held-out images.

        The features of every image are extracted once.
        """
        if not samples:
            return {}, {}
        parts = self.data.partitions
        real = {client: self._features(self.data.images.images, parts[client].held_out) for client in samples}
        made = {client: self._features(own.images) for client, own in samples.items()}
        rows = {
            client: _compare(real[client], made[client]) | self._tstr([client], own, wanted=self.tstr == "clients")
            for client, own in samples.items()
        }
        every = Samples(
            torch.cat([own.images for own in samples.values()]), torch.cat([own.labels for own in samples.values()])
        )
        together = _joined(real.values()), _joined(made.values())
        pooled = _compare(*together) | self._tstr(list(samples), every, wanted=self.tstr != "none")
        return pooled | self._reference(list(samples), *together), rows

    def _reference(self, clients: list[int], real: Features, made: Features) -> dict[str, Any]:
        """What real training images would score, and how far the samples are from them.

        FID is that of as many training images, at even distances, as there are samples, so that both compare.
        """
        images, identity = self.data.images.images, nn.Identity()
        rows = torch.cat([self.data.partitions[client].train for client in clients])
        training = extract_features(images, self.classifier.features, rows=rows)
        reference = {
            "fd_real": frechet_distance(real["classifier"], training, identity),
            "fd_train": frechet_distance(training, made["classifier"], identity),
            "tstr_real": accuracy(self.classifier, *self._held_out(clients)),
        }
        if "inception" in self.published:
            some = evenly(rows, len(made["inception"]))
            training = extract_features(images, self.published["inception"], BATCH, rows=some)
            reference["fid_real"] = frechet_distance(real["inception"], training, identity)
        return reference

    def _features(self, images: Tensor, rows: Tensor | None = None) -> Features:
        """Features of the images, or of those at `rows`, in every network."""
        own = {"classifier": extract_features(images, self.classifier.features, rows=rows)}
        return own | {
            name: extract_features(images, network, BATCH, rows=rows) for name, network in self.published.items()
        }

    def _held_out(self, clients: list[int]) -> tuple[Tensor, Tensor]:
        """Held-out images of some clients, uint8, and their labels."""
        rows = torch.cat([self.data.partitions[client].held_out for client in clients])
        return self.data.images.images[rows], self.data.images.labels[rows]

    def _tstr(self, clients: list[int], samples: Samples, *, wanted: bool) -> dict[str, float | None]:
        """Of the samples whose class is known; None if not wanted, if few are known, or if there is but one class."""
        known = samples.labels >= 0
        if not wanted or 2 * int(known.sum()) < len(known) or self.data.images.num_classes < 2:
            return {"tstr": None}
        learnt = train_synthetic_test_real(
            samples.images[known],
            samples.labels[known],
            *self._held_out(clients),
            num_classes=self.data.images.num_classes,
            seed=JUDGE_SEED,
            device=self.device,
            batch_size=min(128, max(32, int(known.sum()) // 8)),
        )
        return {"tstr": learnt}


def _joined(parts: Iterable[Features]) -> Features:
    """The features of several sets of images as those of one."""
    known = list(parts)
    return {name: torch.cat([part[name] for part in known]) for name in known[0]}


def _compare(real: Features, made: Features) -> dict[str, Any]:
    """Distances and coverage in every network; what has too few images is None."""
    counts = len(real["classifier"]), len(made["classifier"])
    measured: dict[str, Any] = {"num_samples": counts[1], "num_held_out": counts[0]}
    identity, enough = nn.Identity(), min(counts) >= MIN_DISTANCE

    def frechet(network: str) -> float | None:
        return frechet_distance(real[network], made[network], identity) if enough else None

    def kernel(network: str) -> float | None:
        return kernel_distance(real[network], made[network], identity).mean if enough else None

    measured |= {"fd": frechet("classifier"), "kd": kernel("classifier")}
    if "inception" in made:
        measured |= {"fid": frechet("inception"), "kid": kernel("inception")}
    if "clip" in made:
        measured["clip_fid"] = frechet("clip")
    if min(counts) >= MIN_COVERAGE:
        measured |= asdict(measure_coverage(real["classifier"], made["classifier"], identity))
    return measured
