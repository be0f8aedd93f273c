"""The server side of HuSCF-GAN as a Flower strategy: split training batch by batch, then clustered averages."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace

import torch
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import Grid
from torch import Tensor
from torch.nn.functional import interpolate

from collafuse_flwr.core.tensor_io import write_tensors
from collafuse_flwr.gan.aggregation import Own, aggregate
from collafuse_flwr.gan.networks import NETS, Cuts, flatten_blocks, group_by_block, only
from collafuse_flwr.gan.split_gan.activation_bounds import HeadBounds
from collafuse_flwr.gan.split_gan.ops import PASSES, Tensors
from collafuse_flwr.gan.split_gan.precision import QuantizingTransport
from collafuse_flwr.gan.split_gan.server_half import ServerHalf
from collafuse_flwr.gan.split_gan.train_batch import Transport, train_batch
from collafuse_flwr.runs.history import Checkpoint
from collafuse_flwr.setup.gan_cuts import modelled_seconds, select_cuts, spare_cuts
from collafuse_flwr.wire.codec import Weights
from collafuse_flwr.wire.common import ClientInfo
from collafuse_flwr.wire.split_gan import (
    ActivationsReply,
    EndRoundReply,
    EndRoundRequest,
    GenerateHeadRequest,
    GenerateTailRequest,
    SplitRequest,
)
from collafuse_flwr.wire.validation import check_activations
from strategies.client_clustering import (
    ActivationStats,
    clusters_checkpoint,
    clusters_restored,
    initial_blocks,
)
from strategies.gan_base import GanStrategy
from strategies.recutting import BatchClock, Recutting
from strategies.server_model import ServerWork, weights
from strategies.split_transport import (
    Accept,
    ActivationShapes,
    InProcessTransport,
    MessageTransport,
    TimedTransport,
)


class HuscfGan(GanStrategy):
    """HuSCF-GAN (arXiv 2507.12979): a conditional GAN in three pieces, of which clients keep the outer two.

    A round is split training on some batches, six round trips each, and then an average of the clients' blocks within
    clusters. The global arrays are the server's blocks.
    """

    half: ServerHalf

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take in the clients' blocks; cluster, weigh and average."""
        row, began = self.history.rounds[-1], time.perf_counter()
        self._gather_training(replies)
        row.server["seconds"] += time.perf_counter() - began
        with self._threads():
            self._average(row.round)
        return self._arrays(), self._close_training()

    def save(self) -> None:
        """Write the server's blocks."""
        write_tensors(self.layout.server_blocks, self.half.blocks())

    def _cuts_in_words(self) -> str:
        return f", cuts {', '.join(sorted({str(self.cuts[client]) for client in self.client_manager.client_infos}))}"

    def _build(self, client_info: ClientInfo) -> None:
        super()._build(client_info)
        config = self.config
        self.cuts = dict(enumerate(select_cuts(config, self.architecture)))
        self.recutting, self.clock = Recutting(config, self.architecture, self.cuts), BatchClock()
        # As the clients' own blocks begin, so that whoever keeps a block, it is the same.
        name = (config.run.seed, "gan", "server" if config.split_gan.init == "independent" else 0)
        self.half = ServerHalf(self.architecture, self.cuts, name, self.optim_config, spare_cuts(config))
        self.shapes = ActivationShapes(self.architecture, config.gan.batch_size, config.split_gan.factor_tail_gradients)
        self.heads = {client: self._head_bounds(client, own) for client, own in self.cuts.items()}
        self.cluster_of: dict[int, int] = {}
        self.models: dict[int, Weights] = {}
        self.latents: dict[int, Tensor] = {}

    def _head_bounds(self, client: int, cuts: Cuts) -> HeadBounds:
        split = self.config.split_gan
        name = (self.config.run.seed, "gan", client if split.init == "independent" else 0)
        return HeadBounds(self.architecture, cuts, name, self.optim_config, split.activation_noise)

    def _check_answer(self, client: int, phase: str, step: int, tensors: Tensors) -> None:
        """Hold an answer against its shapes, and against what the client's heads can make.

        Raises:
            UploadError: it does not fit.
        """
        check_activations(tensors, self.shapes.of(self.cuts[client], phase))
        self.heads[client].check(tensors, step)

    def _before_training(self, grid: Grid, round_: int) -> None:
        """Train on all batches of a round, with fewer clients where some fall silent."""
        began = time.perf_counter()
        config, steps = self.config, self._steps()
        self.observed, self.clock = ActivationStats(config.clustering), BatchClock()
        for client in self.recutting.begin(self.half):
            self.heads[client] = self._head_bounds(client, self.cuts[client])
        before = sum(past.server.get("steps", 0) for past in self.history.rounds)
        for client in self.selected:
            self.heads[client].begin(self._fresh_weights(client), before)
        near, far = self._link(grid, round_)
        link = TimedTransport(far)
        pending: dict[int, Tensors] = {client: {} for client in self.selected}
        flops, rows = 0, 0
        for step in range(steps):
            self.progress.step("batches", step, steps)
            near.step = step
            rows += len(pending) * config.gan.batch_size
            flops += self._flops(list(pending))
            pending, seen = train_batch(self.half, link, pending)
            if not pending:
                break
            if step >= steps - config.clustering.num_batches:
                self.observed.see({client: seen[client] for client in pending})
        seconds = time.perf_counter() - began
        work = ServerWork(math.nan, step + 1, rows, seconds - link.seconds, flops)
        cuts = {str(client): str(own) for client, own in self.cuts.items()}
        self.history.rounds[-1].server = asdict(work) | {"pool": 0, "client_cuts": cuts, "batch_seconds": seconds}
        if modelled := modelled_seconds(config, self.architecture, list(self.cuts.values()), round_):
            self.history.rounds[-1].server["modelled_seconds"] = modelled * work.steps
        self._plan(grid, round_)
        self.selected, self.pending = sorted(pending), pending
        if isinstance(near, InProcessTransport):
            for client in self.selected:
                self._end_here(client, near.sessions[client], self.clients(client).close_round)
            self.selected = []

    def _plan(self, grid: Grid, round_: int) -> None:
        """Plan the cuts of the next round, if it is time; a simulation's clients have the clocks of their devices."""
        planned = self.recutting.plan(round_, self.clock.medians() if self._bounded(grid).is_remote() else None)
        if planned:
            self.history.rounds[-1].server["replanned"] = self.recutting.journal(planned)
            self.progress.say(self.recutting.in_words(planned, round_ + 1))

    def _link(self, grid: Grid, round_: int) -> tuple[MessageTransport | InProcessTransport, Transport]:
        """What counts the steps of a round, and what reaches the clients in them."""
        config = self.config.gan
        if config.transport == "messages":

            def exchange(requests: Mapping[int, SplitRequest], accept: Accept) -> None:
                self._round_trip(grid, requests, "train.split", ActivationsReply, accept)
                took, nodes = self._bounded(grid).seconds, self.client_manager.nodes
                self.clock.add({client: took[nodes[client]] for client in requests if nodes[client] in took})

            link = MessageTransport(exchange, round_, self.cuts, self._check_answer, self._first_weights)
            return link, link
        row = self.history.rounds[-1]

        def count(client: int, down: int, up: int) -> None:
            row.count(row.bytes_down, client, down)
            row.count(row.bytes_up, client, up)

        sessions = {}
        for client in self.selected:
            fresh = self._first_weights(client)
            row.count(row.bytes_down, client, sum(value.nbytes for value in fresh.values()))
            here, cuts = self.clients(client), str(self.cuts[client])
            begin = SplitRequest(round_, 0, "latent", cuts, {}, {})
            # What its phases let out is noted once a round, as of messages.
            here.noted("train.split", begin, lambda _: ActivationsReply({}))
            sessions[client] = here.open_round(round_, cuts, fresh)
        near = InProcessTransport(
            sessions,
            self.config.resources.client_threads,
            self._accept,
            self._check_answer,
        )
        return near, QuantizingTransport(near, config.wire_dtype, count)

    def _train_request(self, client: int, round_: int) -> EndRoundRequest:
        """The last gradient that is due; for it the client sends its blocks."""
        next_cuts = self.recutting.next_cuts(client)
        return EndRoundRequest(round_, str(self.cuts[client]), self.pending[client], next_cuts)

    def _accept_training(self, client: int, reply: EndRoundReply) -> None:
        """Take in a client's blocks, and the moments of those that it leaves to the server."""
        blocks, moments = self.recutting.take(client, reply.weights, self.optim_config.betas)
        super()._accept_training(client, replace(reply, weights=blocks))
        self.recutting.ended(client, moments)

    def _first_weights(self, client: int) -> Weights:
        """The blocks that a client begins a round with, and what it needs to go on with those that are new to it."""
        fresh = self._fresh_weights(client)
        return fresh | self.recutting.moments(client, self.half) if fresh else fresh

    def _fresh_weights(self, client: int) -> Weights:
        """The blocks that a client begins a round with, if there are any."""
        fresh = initial_blocks(self.cluster_of, self.models, self.half.blocks(), client, self._template(client))
        return {name: value.cpu() for name, value in fresh.items()}

    def _template(self, client: int) -> Weights:
        return self.cuts[client].template(self.architecture)

    def _average(self, round_: int) -> None:
        """Average what came in, as its clients' activations say."""
        device = self.half.runtime.device
        received = {c: {name: x.to(device) for name, x in own.items()} for c, own in self.received.items()}
        self.received = {}
        if not received:
            self.recutting.merge(self.half, {}, {})
            return
        sizes = {client: self.client_manager.client_infos[client].num_images for client in received}
        warm_up = round_ <= self.config.clustering.warmup_rounds
        weighing = self.observed.weigh(sizes, self.cluster_of, warm_up=warm_up)
        self.cluster_of |= weighing.cluster_of
        weighing = weighing.capped(self.config.federation.max_client_weight)
        # Clusters of which nobody took part keep their blocks, for whoever of them comes back.
        here = set(weighing.cluster_of.values())
        self.models = {c: {} if c in here else self.models.get(c, {}) for c in sorted(set(self.cluster_of.values()))}
        server = self.half.blocks()
        for net in NETS:
            own: dict[int, Own] = {client: group_by_block(blocks, net) for client, blocks in received.items()}
            clients, renewed = aggregate(
                own,
                group_by_block(server, net),
                cluster_of=weighing.cluster_of,
                within=weighing.within,
                overall=weighing.overall,
                average_server_blocks=self.config.split_gan.average_server_blocks,
            )
            self.half.load_blocks(flatten_blocks(net, renewed))
            for client, blocks in clients.items():
                self.models[weighing.cluster_of[client]] |= flatten_blocks(net, blocks)
        self.recutting.merge(self.half, received, weighing.overall)
        if self.config.split_gan.reset_moments and self.config.split_gan.average_server_blocks:
            self.half.reset_moments()
        self.history.rounds[-1].server |= weighing.journal()

    def _flops(self, clients: list[int]) -> int:
        """Operations of the server in a batch: three passes of the generator, eight of the discriminator."""
        rows = self.config.gan.batch_size
        return sum(rows * PASSES[net] * self.half.flops(client, net) for client in clients for net in NETS)

    def _server_flops(self, client_info: ClientInfo) -> int:
        return self.half.flops(client_info.partition_id, "generator")

    def _before_evaluation(self, grid: Grid, round_: int) -> None:
        """Let every client begin its samples, with the blocks that were averaged."""
        requests = {}
        self.wanted, self.latents = self._sample_counts(), {}
        # Who has trained in this round has averages of its own, where these make samples.
        averaged = self.history.rounds[-1].clients.keys() if self.config.split_gan.ema else ()
        for client, count in self.wanted.items():
            own = {} if str(client) in averaged else only("generator", self._fresh_weights(client))
            requests[client] = GenerateHeadRequest(round_, count, str(self.cuts[client]), own)
        self._round_trip(grid, requests, "evaluate.latent", ActivationsReply, self._accept_latent)
        self.selected = sorted(self.latents)

    def _accept_latent(self, client: int, reply: ActivationsReply) -> None:
        row = self.shapes.cut(self.cuts[client], "gh")
        check_activations(reply.activations, {"gh": torch.Size((self.wanted[client], *row))})
        self.latents[client] = reply.activations["gh"]

    def _evaluate_request(self, client: int, round_: int, count: int) -> tuple[GenerateTailRequest, Tensor]:
        """The middle's output, and for the pictures the mean of its maps, at the images' size."""
        gt = self.half.generate(client, self.latents[client].to(self.half.runtime.device)).cpu()
        # The values of a dense block are shown as one line.
        maps = gt if gt.ndim == 4 else gt.flatten(1)[:, None, None]
        shown = maps.mean(dim=1, keepdim=True)
        shown = (shown - shown.mean()) / (2 * shown.std() + 1e-6)
        size = self.architecture.size
        pictures = interpolate(shown, (size, size)).expand(-1, self.architecture.channels, -1, -1)
        return GenerateTailRequest(round_, str(self.cuts[client]), {"gt": gt}), pictures

    def _arrays(self) -> ArrayRecord:
        return ArrayRecord({name: value.cpu() for name, value in self.half.blocks().items()})

    def _load_initial(self, arrays: ArrayRecord) -> None:
        device = self.half.runtime.device
        self.half.load_blocks({name: value.to(device) for name, value in weights(arrays).items()})

    def _checkpoint(self) -> Checkpoint:
        clusters = clusters_checkpoint(self.cluster_of, self.models)
        tensors = clusters.tensors | {"server": self.half.state(), "moving": self.recutting.merged}
        return Checkpoint(tensors, clusters.state | self.recutting.state())

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.half.load(checkpoint.tensors["server"])
        self.cluster_of, self.models = clusters_restored(checkpoint)
        self.recutting.restore(checkpoint.state, checkpoint.tensors.get("moving", {}))
        self.heads = {client: self._head_bounds(client, own) for client, own in self.cuts.items()}
