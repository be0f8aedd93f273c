"""How good generated images are, per client and pooled, in the features of a classifier of the real ones.

FD and KD are in those features. FID, KID and CLIP-FID, in the features of published networks, are measured besides
where the settings name their weights. Fréchet distances of few images are biased upwards, most of all those of fewer
images than there are features (2048 of Inception, 512 of CLIP), whose covariances lack ranks: they compare only with
distances of equally many images.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from collafuse_flwr.data.federated import FederationData
from collafuse_flwr.data.images import normalize, subsample_evenly
from collafuse_flwr.evaluation.classifier import ImageClassifier, accuracy
from collafuse_flwr.evaluation.classifier_cache import cached_classifier
from collafuse_flwr.evaluation.coverage import measure_coverage
from collafuse_flwr.evaluation.distances import frechet_distance, kernel_distance
from collafuse_flwr.evaluation.features import extract_features
from collafuse_flwr.evaluation.metric import EvaluationMetric
from collafuse_flwr.evaluation.pretrained import BATCH, PretrainedFeatures, pretrained_networks
from collafuse_flwr.evaluation.settings import EvaluationConfig
from collafuse_flwr.evaluation.tstr import train_synthetic_test_real, tstr_batch_size
from collafuse_flwr.evaluation.utility import Utility, dataset_score

#: Images on either side that a distance and the nearest neighbours of coverage need.
MIN_DISTANCE, MIN_COVERAGE = 2, 6
#: Held-out images of others that the classifier of a client's samples is tested on.
MAX_TESTED = 2000
#: The judge is the same for every run on the same images, whatever the run's seed.
EVALUATOR_SEED = 0
#: What a classifier of samples is measured by.
UTILITY = tuple(field.name for field in fields(Utility))

#: Features (n, d) of some images, by network: `classifier`, and `inception` and `clip` where their weights are there.
Features = dict[str, Tensor]


@dataclass(frozen=True)
class Samples:
    """Generated images in [-1, 1], shape (n, channels, size, size), and the class of each (-1: unknown)."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class SampleEvaluator:
    """A classifier of the real training images, whose features and accuracy are the yardstick, and published networks.

    Images stay uint8 where they are, and are scaled batch by batch. `domains` names the data set of each client, where
    every client has images of one. `cores` is how many classifiers of samples train at a time.
    """

    data: FederationData
    classifier: ImageClassifier
    published: dict[str, PretrainedFeatures]
    device: torch.device
    tstr: str
    domains: dict[int, str]
    metrics: tuple[EvaluationMetric, ...] = ()
    cores: int = 1

    @classmethod
    def trained_on(
        cls,
        data: FederationData,
        config: EvaluationConfig,
        device: torch.device,
        domains: dict[int, str],
        metrics: tuple[EvaluationMetric, ...] = (),
        *,
        cache: Path,
        cores: int = 1,
    ) -> SampleEvaluator:
        """Train the judge on all clients' training images, or find it in `cache`; load the networks of the settings.

        Raises:
            SettingError: as `pretrained_networks`.
        """
        published = pretrained_networks(config)
        rows = torch.cat([partition.train for partition in data.partitions]).sort().values
        images = data.images
        training = images.pixels, images.labels, images.num_classes, EVALUATOR_SEED
        classifier = cached_classifier(cache, *training, rows=rows, device=device)
        published = {name: network.to(device) for name, network in published.items()}
        return cls(data, classifier, published, device, config.tstr, domains, metrics, cores)

    def measure(
        self, samples: dict[int, Samples]
    ) -> tuple[dict[str, Any], dict[int, dict[str, Any]], dict[str, dict[str, Any]]]:
        """Quality of all clients' samples together, of each client's against its own held-out images, and by domain.

        `accuracy`, `precision`, `recall`, `f1` and `fpr` are on held-out images of all clients of its domain, of all
        clients where there are no domains. The features of every image are extracted once.
        """
        if not samples:
            return {}, {}, {}
        parts = self.data.partitions
        real = {client: self._features(self.data.images.pixels, parts[client].held_out) for client in samples}
        generated = {client: self._features(own.images) for client, own in samples.items()}
        named = dict.fromkeys(name for client in sorted(samples) if (name := self.domains.get(client)) is not None)
        members = {name: [client for client in samples if self.domains.get(client) == name] for name in named}
        single, several = {"clients": (True, True), "pooled": (False, True), "none": (False, False)}[self.tstr]
        every = list(samples)
        # The largest first, so that no core waits for them at the end.
        learns = [(every, several), *((own, several) for own in members.values()), *(([c], single) for c in every)]
        learnt, *others = self._all_learnt(learns, samples)

        def together(clients: list[int], learnt: dict[str, float | None]) -> dict[str, Any]:
            own, other = _joined(real[c] for c in clients), _joined(generated[c] for c in clients)
            metrics = _compare(own, other) | {"score": self._score(other)} | self._further(clients, samples)
            return metrics | learnt

        pooled = together(every, learnt)
        pooled |= self._reference(every, *(_joined(part[c] for c in every) for part in (real, generated)))
        domains = {name: together(own, of) for (name, own), of in zip(members.items(), others, strict=False)}
        rows = {client: together([client], of) for client, of in zip(every, others[len(members) :], strict=True)}
        for name, own in members.items():
            domains[name] |= _spread([rows[client] for client in own])
        return pooled, rows, domains

    def _reference(self, clients: list[int], real: Features, generated: Features) -> dict[str, Any]:
        """What real training images would score, and how far the samples are from them.

        FID is that of as many training images, at even distances, as there are samples, so that both compare.
        """
        images, identity = self.data.images.pixels, nn.Identity()
        rows = torch.cat([self.data.partitions[client].train for client in clients])
        training = extract_features(images, self.classifier.features, rows=rows)
        reference = {
            "fd_real": frechet_distance(real["classifier"], training, identity),
            "fd_train": frechet_distance(training, generated["classifier"], identity),
            "tstr_real": accuracy(self.classifier, *self._held_out(clients)),
        }
        if "inception" in self.published:
            some = subsample_evenly(rows, len(generated["inception"]))
            training = extract_features(images, self.published["inception"], BATCH, rows=some)
            reference["fid_real"] = frechet_distance(real["inception"], training, identity)
        return reference

    def _features(self, images: Tensor, rows: Tensor | None = None) -> Features:
        """Features of the images, or of those at `rows`, in every network."""
        own = {"classifier": extract_features(images, self.classifier.features, rows=rows)}
        return own | {
            name: extract_features(images, network, BATCH, rows=rows) for name, network in self.published.items()
        }

    def _held_out(self, clients: list[int], at_most: int | None = None) -> tuple[Tensor, Tensor]:
        """Held-out images of some clients, uint8, and their labels; `at_most` so many, at even distances."""
        rows = torch.cat([self.data.partitions[client].held_out for client in clients])
        rows = rows if at_most is None else subsample_evenly(rows, at_most)
        return self.data.images.pixels[rows], self.data.images.labels[rows]

    def _score(self, generated: Features) -> float:
        """How sure the judge is of each image, and how evenly it finds the classes."""
        features = generated["classifier"].float()
        with torch.no_grad():
            return dataset_score(self.classifier.head(features))

    def _further(self, clients: list[int], samples: dict[int, Samples]) -> dict[str, float | None]:
        """Others' metrics, on the held-out images of some clients and on their samples."""
        if not self.metrics:
            return {}
        images, labels = self._held_out(clients)
        fake = [torch.cat([getattr(samples[client], name) for client in clients]) for name in ("images", "labels")]
        return {metric.key: metric.of((normalize(images), labels), (fake[0], fake[1])) for metric in self.metrics}

    def _neighbours(self, client: int) -> list[int]:
        """The clients of its domain, or all of them."""
        clients = range(len(self.data.partitions))
        return [other for other in clients if self.domains.get(other) == self.domains.get(client)]

    def _all_learnt(
        self, learns: list[tuple[list[int], bool]], samples: dict[int, Samples]
    ) -> list[dict[str, float | None]]:
        """`_learnt` of clients together where it is wanted, `cores` at a time, each with as many threads as here."""

        def learn(own: tuple[list[int], bool]) -> dict[str, float | None]:
            return self._learnt(own[0], [samples[client] for client in own[0]], wanted=own[1])

        each = torch.get_num_threads()
        with ThreadPoolExecutor(self.cores, initializer=torch.set_num_threads, initargs=(each,)) as pool:
            return list(pool.map(learn, learns))

    def _learnt(self, clients: list[int], samples: list[Samples], *, wanted: bool) -> dict[str, float | None]:
        """Of the samples whose class is known; None if not wanted, if few are known, or if there is but one class."""
        images, labels = torch.cat([own.images for own in samples]), torch.cat([own.labels for own in samples])
        labelled = labels >= 0
        if not wanted or 2 * int(labelled.sum()) < len(labelled) or self.data.images.num_classes < 2:
            return dict.fromkeys(("tstr", *UTILITY))
        tests = [self._held_out(clients)]
        if len(clients) == 1:
            tests.append(self._held_out(self._neighbours(clients[0]), MAX_TESTED))
        learnt = train_synthetic_test_real(
            images[labelled],
            labels[labelled],
            tests,
            num_classes=self.data.images.num_classes,
            seed=EVALUATOR_SEED,
            device=self.device,
            batch_size=tstr_batch_size(int(labelled.sum())),
        )
        return {"tstr": learnt[0].accuracy, **asdict(learnt[-1])}


def _spread(clients: list[dict[str, Any]]) -> dict[str, Any]:
    """How many clients a domain has, and how they do on its images: their mean, and the worst of them."""
    accuracies = [row["accuracy"] for row in clients if row["accuracy"] is not None]
    return {
        "num_clients": len(clients),
        "accuracy_mean": sum(accuracies) / len(accuracies) if accuracies else None,
        "accuracy_worst": min(accuracies, default=None),
    }


def _joined(parts: Iterable[Features]) -> Features:
    """The features of several sets of images as those of one."""
    features = list(parts)
    return {name: torch.cat([part[name] for part in features]) for name in features[0]}


def _compare(real: Features, generated: Features) -> dict[str, Any]:
    """Distances and coverage in every network; what has too few images is None."""
    counts = len(real["classifier"]), len(generated["classifier"])
    measured: dict[str, Any] = {"num_samples": counts[1], "num_held_out": counts[0]}
    identity, enough = nn.Identity(), min(counts) >= MIN_DISTANCE

    def frechet(network: str) -> float | None:
        return frechet_distance(real[network], generated[network], identity) if enough else None

    def kernel(network: str) -> float | None:
        return kernel_distance(real[network], generated[network], identity).mean if enough else None

    measured |= {"fd": frechet("classifier"), "kd": kernel("classifier")}
    if "inception" in generated:
        measured |= {"fid": frechet("inception"), "kid": kernel("inception")}
    if "clip" in generated:
        measured["clip_fid"] = frechet("clip")
    if min(counts) >= MIN_COVERAGE:
        measured |= asdict(measure_coverage(real["classifier"], generated["classifier"], identity))
    return measured
