"""How good generated images are, per client and pooled, in the features of a classifier of the real ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from collafuse_flwr.config import Config
from collafuse_flwr.data import FederationData, to_model_space
from collafuse_flwr.evaluation import (
    ImageClassifier,
    accuracy,
    extract_features,
    frechet_distance,
    kernel_distance,
    measure_coverage,
    train_classifier,
    train_synthetic_test_real,
)
from collafuse_flwr.runtime import choose_runtime

#: Images on either side that a distance and the nearest neighbours of coverage need.
MIN_DISTANCE, MIN_COVERAGE = 2, 6
#: The judge is the same for every run on the same images, whatever the run's seed.
JUDGE_SEED = 0


@dataclass(frozen=True)
class Samples:
    """Generated images in [-1, 1], shape (n, channels, size, size), and the class of each (-1: unknown)."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Judge:
    """A classifier of the real training images, whose features and accuracy are the yardstick."""

    data: FederationData
    classifier: ImageClassifier
    device: torch.device
    tstr: str

    @classmethod
    def trained_on(cls, data: FederationData, config: Config) -> Judge:
        """Train the judge on all clients' training images."""
        device = choose_runtime(config.run.device, config.run.precision).device
        rows = torch.cat([partition.train for partition in data.partitions]).sort().values
        images, labels = to_model_space(data.images.images[rows]), data.images.labels[rows]
        classifier = train_classifier(images, labels, data.images.num_classes, JUDGE_SEED, device=device)
        return cls(data, classifier, device, config.evaluation.tstr)

    def pooled(self, samples: dict[int, Samples]) -> dict[str, Any]:
        """Quality of all clients' samples together, beside what real training images would score."""
        if not samples:
            return {}
        real, labels = self._held_out(list(samples))
        together = Samples(
            torch.cat([s.images for s in samples.values()]), torch.cat([s.labels for s in samples.values()])
        )
        rows = torch.cat([self.data.partitions[client].train for client in samples])
        training = to_model_space(self.data.images.images[rows])
        return self._measure(real, labels, together, tstr=self.tstr != "none") | {
            "fd_real": frechet_distance(real, training, self.classifier.features),
            "fd_train": frechet_distance(training, together.images, self.classifier.features),
            "tstr_real": accuracy(self.classifier, real, labels),
        }

    def client(self, client: int, samples: Samples) -> dict[str, Any]:
        """Quality of one client's samples against its own held-out images."""
        real, labels = self._held_out([client])
        return self._measure(real, labels, samples, tstr=self.tstr == "clients")

    def _held_out(self, clients: list[int]) -> tuple[Tensor, Tensor]:
        held = [self.data.client(client).held_out for client in clients]
        return to_model_space(torch.cat([h.images for h in held])), torch.cat([h.labels for h in held])

    def _measure(self, real: Tensor, labels: Tensor, samples: Samples, *, tstr: bool) -> dict[str, Any]:
        """Everything that has enough images to be measured; the rest is None."""
        measured: dict[str, Any] = {"num_samples": len(samples.images), "num_held_out": len(real)}
        real_features = extract_features(real, self.classifier.features)
        features = extract_features(samples.images, self.classifier.features)
        identity, few = nn.Identity(), min(len(real), len(features))
        measured["fd"] = frechet_distance(real_features, features, identity) if few >= MIN_DISTANCE else None
        measured["kd"] = kernel_distance(real_features, features, identity).mean if few >= MIN_DISTANCE else None
        if few >= MIN_COVERAGE:
            measured |= asdict(measure_coverage(real_features, features, identity))
        measured["tstr"] = self._tstr(real, labels, samples) if tstr else None
        return measured

    def _tstr(self, real: Tensor, labels: Tensor, samples: Samples) -> float | None:
        """Of the samples whose class is known; None where that is fewer than half, or there is but one class."""
        known = samples.labels >= 0
        if 2 * int(known.sum()) < len(known) or self.data.images.num_classes < 2:
            return None
        return train_synthetic_test_real(
            samples.images[known],
            samples.labels[known],
            real,
            labels,
            num_classes=self.data.images.num_classes,
            seed=JUDGE_SEED,
            device=self.device,
            batch_size=min(128, max(32, len(samples.images) // 8)),
        )
