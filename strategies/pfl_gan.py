"""The server side of PFL-GAN as a Flower strategy: mixtures of what similar clients' generators make."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import asdict, replace

import torch
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import Grid
from torch import Tensor

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.data.images import to_uint8
from collafuse_flwr.gan.client_similarity import mixture, similarities, trained_classes
from collafuse_flwr.gan.fedgan import UnsplitGan
from collafuse_flwr.gan.mdgan import Generator, draw_codes
from collafuse_flwr.gan.networks import only
from collafuse_flwr.runs.history import Checkpoint
from collafuse_flwr.wire.codec import Weights
from collafuse_flwr.wire.common import ClientInfo
from collafuse_flwr.wire.gan import GanWorkRequest, SyntheticWorkRequest
from strategies.gan_base import GeneratorStrategy
from strategies.server_model import ServerWork, weights

#: Images of each client's generator that similarities are measured on.
PROBES = 256


class PflGan(GeneratorStrategy):
    """PFL-GAN (arXiv 2308.12454): every client has a GAN of its own, and learns from what similar ones make.

    The paper's: clients train GANs of their own and upload the generators; the server makes images with each, measures
    how similar clients are in an encoder's latent space, and gives each client a mixture of synthetic images weighted
    by it. What could be read is the abstract and a summary, not the algorithm.

    Ours: in the first rounds clients train alone. In all others a client is sent a new mixture, of the generators as
    they were then, so that nobody learns from what was itself learnt from synthetic images; it goes on training on its
    own images and the mixture together, and sends no weights any more. All rounds have as many batches as in the other
    GANs. The encoder is linear, and a client takes
    s_ij n_j images of another (gan/client_similarity.py): clients that are alike train on as many images as all have,
    and clients that have nothing in common train alone. A generator is given the classes that it was trained on, which
    its weights show, all as often. The global arrays are the weights that all begin with.
    """

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check the generators that came, and keep them; who was sent a mixture sends none."""
        self._gather_training(replies)
        self.generators |= {client: own for client, own in self.received.items() if own}
        self.received = {}
        return self._arrays(), self._close_training()

    def _build(self, client_info: ClientInfo) -> None:
        super()._build(client_info)
        self.initial = UnsplitGan(self.architecture, self.config.run.seed, self.optim_config).blocks()
        self.maker = Generator(self.architecture, ("synthetic",), self.optim_config)
        self.generators: dict[int, Weights] = {}

    def _before_training(self, grid: Grid, round_: int) -> None:
        """Mix what each client is to learn from beside its own images: nothing in the first rounds."""
        began = time.perf_counter()
        self.mixtures: dict[int, tuple[Tensor, Tensor]] = {}
        clients, rows = sorted(self.generators), 0
        similar = torch.eye(len(clients))
        if len(clients) > 1 and round_ > self._warmup_rounds():
            probes = [self._make(client, PROBES, "probes", round_)[0] for client in clients]
            similar, rows = similarities(probes), PROBES * len(clients)
            counts = self._counts(clients, similar)
            most = {j: max(own[j] for own in counts.values()) for j in clients} if counts else {}
            synthetic = {j: self._make(j, count, "synthetic", round_, j) for j, count in most.items() if count}
            rows += sum(most.values())
            for client, own in counts.items():
                parts = [[x[: own[j]] for x in synthetic[j]] for j in synthetic]
                if sum(own.values()):
                    images, labels = (torch.cat(part) for part in zip(*parts, strict=True))
                    self.mixtures[client] = to_uint8(images), labels
        work = ServerWork(math.nan, 0, rows, time.perf_counter() - began, rows * self.maker.flops())
        self.history.rounds[-1].server = asdict(work) | {
            "pool": 0,
            "synthetic": {str(client): len(labels) for client, (_, labels) in self.mixtures.items()},
            "similarities": {str(client): row for client, row in zip(clients, similar.tolist(), strict=True)},
        }

    def _warmup_rounds(self) -> int:
        """The first rounds, in which clients train alone."""
        wanted = self.config.pfl_gan.warmup_rounds
        return self.config.run.num_rounds // 2 if wanted < 0 else wanted

    def _counts(self, clients: list[int], similar: Tensor) -> dict[int, dict[int, int]]:
        """Synthetic images of each client, for each client of the round whose generator is there."""
        sizes, most = list(self._sizes(clients).values()), self.config.pfl_gan.num_synthetic
        return {
            client: dict(zip(clients, mixture(place, similar[place], sizes, most), strict=True))
            for place, client in enumerate(clients)
            if client in self.selected
        }

    def _make(self, client: int, count: int, *name: str | int) -> tuple[Tensor, Tensor]:
        """Images of a client's generator in [-1, 1], and their labels, of the classes that it was trained on.

        Streams of the same name give equal generators equal images.
        """
        own, stream = self.generators[client], named_generator(self.config.run.seed, *name)
        classes = trained_classes(self.architecture, self.initial, own)
        z, drawn = draw_codes(count, len(classes), stream)
        self.maker.load_weights(own)
        # No client's weights, however large, make what is no number.
        return self.maker.sample(z, classes[drawn]).nan_to_num(0.0), classes[drawn]

    def _train_request(self, client: int, round_: int) -> SyntheticWorkRequest:
        """The number of batches, and the client's mixture; at first the weights that all begin with."""
        begin = {} if client in self.generators else self.initial
        mixture = self.mixtures.get(client, (None, None))
        return SyntheticWorkRequest(round_, self._steps(), self._wants(client), begin, *mixture)

    def _wants(self, client: int) -> bool:
        """Whether a client's generator is due: in the first rounds, and of one that has sent none yet."""
        return self.history.rounds[-1].round <= self._warmup_rounds() or client not in self.generators

    def _evaluate_request(self, client: int, round_: int, count: int) -> tuple[GanWorkRequest, Tensor]:
        """The number of samples; its own generator makes them."""
        request, pictures = super()._evaluate_request(client, round_, count)
        return replace(request, weights={}), pictures

    def _template(self, client: int) -> Weights:
        return self._first() if self._wants(client) else {}

    def _first(self) -> Weights:
        """The generator that all begin with."""
        return only("generator", self.initial)

    def _generators(self) -> dict[str, Weights]:
        return {f"client {client}.": own for client, own in sorted(self.generators.items())}

    def _generator(self, client: int) -> Weights:
        return self.generators.get(client, self._first())

    def _arrays(self) -> ArrayRecord:
        return ArrayRecord(self.initial)

    def _load_initial(self, arrays: ArrayRecord) -> None:
        self.initial |= weights(arrays)

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint({"initial": self.initial} | {f"client {c}": own for c, own in self.generators.items()})

    def _restore(self, checkpoint: Checkpoint) -> None:
        kept = {part: {n: x.cpu() for n, x in own.items()} for part, own in checkpoint.tensors.items()}
        self.initial = kept.pop("initial")
        self.generators = {int(part.split()[1]): own for part, own in kept.items()}
