"""What every strategy's server does: select clients, record rounds, decide when to evaluate, resume."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import RunFailed, UploadError
from collafuse_flwr.core.progress import Progress
from collafuse_flwr.core.runtime import available_cores, choose_runtime, threads
from collafuse_flwr.core.tensor_io import write_tensors
from collafuse_flwr.core.text import last_line, number_of
from collafuse_flwr.runs.history import Checkpoint, History, RoundRecord
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.wire.codec import count_bytes, decode, encode
from collafuse_flwr.wire.common import ClientInfo, EvaluateReply
from strategies.client_manager import ClientManager, failure
from strategies.held_replies import ReplyBounds, is_too_large
from strategies.retry_grid import RetryGrid

M = TypeVar("M")
#: Hand-overs of each client that are kept for the picture.
KEPT_HANDOFFS = 32


class BaseStrategy(Strategy, ABC):
    """The rounds of a run, with their journal.

    It is used as any Flower strategy::

        strategy = make_strategy(config, folder, Progress(...), clients)
        arrays = strategy.connect(grid)
        strategy.start(grid, arrays, num_rounds=strategy.rounds_left)

    `connect` waits for the clients and takes up the folder's checkpoint, if it has one; its rounds are not run again.
    """

    #: What clients answer at the end of a round's training.
    train_reply: ClassVar[type[Any]]

    def __init__(self, config: Config, folder: Path, progress: Progress, clients: Callable[[int], Any]) -> None:
        """`clients` gives a client of a simulation, for strategies that can do without messages."""
        self.config, self.layout, self.progress, self.clients = config, RunLayout(folder), progress, clients
        self.runtime = choose_runtime(config.run.device, config.run.precision)
        #: How activations travel.
        self.wire_dtype = config.gan.wire_dtype if config.spec.is_gan else "float32"
        self.client_manager = ClientManager(config)
        self.history = History(folder)
        self._retry_grid: RetryGrid | None = None
        self.done, self.selected = 0, list[int]()
        self.on_round: Callable[[RoundRecord], None] = lambda _: None

    @property
    def rounds_left(self) -> int:
        """Rounds still to run."""
        return self.config.run.num_rounds - self.done

    def connect(self, grid: Grid) -> ArrayRecord:
        """Wait for clients, build what the server trains or holds, and take up a checkpoint; the arrays to start with.

        Raises:
            RunFailed: clients do not come in time, or none can take part.
        """
        checkpoint = self.history.load(self.runtime.device)
        self.client_manager.restore(self.history.client_infos.values())
        self.client_manager.wait(self._bounded(grid), say=self.progress.say)
        with self._threads():
            self._build(next(iter(self.client_manager.client_infos.values())))
            if checkpoint is not None:
                self._restore(checkpoint)
                self.done = len(self.history.rounds)
                self.history.write_metrics()
        return self._arrays()

    def start(self, grid: Grid, *arguments: Any, **named: Any) -> Result:
        """Run rounds, as Flower's own, with bounds on what replies take in memory."""
        return super().start(self._bounded(grid), *arguments, **named)

    def _bounded(self, grid: Grid) -> RetryGrid:
        # The same over a grid as before: it knows which workers have died.
        if self._retry_grid is None or grid not in (self._retry_grid, self._retry_grid.below):
            step = partial(self.progress.step, "clients")
            self._retry_grid = RetryGrid(grid, ReplyBounds.of(self.config.federation), on_reply=step)
        return self._retry_grid

    @abstractmethod
    def _build(self, client_info: ClientInfo) -> None:
        """Make what the server trains or holds, for images as a client describes them."""

    @abstractmethod
    def _restore(self, checkpoint: Checkpoint) -> None:
        """Take up what `_checkpoint` gave."""

    @abstractmethod
    def _checkpoint(self) -> Checkpoint:
        """Everything the server must keep beside the rounds."""

    @abstractmethod
    def _arrays(self) -> ArrayRecord:
        """Flower's global arrays."""

    @abstractmethod
    def _load_initial(self, arrays: ArrayRecord) -> None:
        """Begin a fresh run with the arrays that `start` was given."""

    @abstractmethod
    def _train_request(self, client: int, round_: int) -> object:
        """The request to a client in a round."""

    @abstractmethod
    def _accept_training(self, client: int, reply: Any) -> None:
        """Take in what a client answers, a `train_reply`.

        Raises:
            UploadError: something in it does not fit; nothing of it was used.
        """

    @abstractmethod
    def _evaluate_request(self, client: int, round_: int, count: int) -> tuple[object, Tensor]:
        """What a client makes `count` samples from, and pictures of it."""

    @abstractmethod
    def save(self) -> None:
        """Write what the server has trained."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Open a round, choose its clients, and ask each of them to train."""
        round_ = self._open_round(server_round, arrays, grid)
        with self._threads():
            self._before_training(grid, round_)
        return [self._message(client, self._train_request(client, round_), "train") for client in self.selected]

    def _open_round(self, server_round: int, arrays: ArrayRecord, grid: Grid) -> int:
        """Begin a round with the clients who are there, and choose who takes part in it."""
        self.arrays = arrays
        if server_round == 1 and not self.history.rounds:
            self._load_initial(arrays)
        self.client_manager.register_new(grid)
        round_ = self.done + 1
        client_infos = self.client_manager.client_infos
        values = next(client_info.channels * client_info.size**2 for client_info in client_infos.values())
        cuts = {str(client): client_info.cut_step for client, client_info in client_infos.items()}
        self.history.rounds.append(RoundRecord(round_, values, cuts))
        self.selected = self.client_manager.sample(round_)
        self.history.rounds[-1].images = {str(c): client_infos[c].num_images for c in self.selected}
        for client in client_infos.keys() - self.client_manager.nodes.keys():
            self.history.rounds[-1].failed[str(client)] = "it is not there"
        for notice in self.client_manager.new_notices():
            self.progress.say(notice)
        self.progress.begin_round(round_, self.config.run.num_rounds, len(self.selected))
        return round_

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every client for samples, in the rounds that evaluate."""
        self.arrays, self.selected, round_ = arrays, [], self.history.rounds[-1].round
        if not self.config.evaluates(round_):
            return []
        self.client_manager.register_new(grid)
        self.selected = sorted(self.client_manager.nodes)
        with self._threads():
            self._before_evaluation(grid, round_)
            return self._evaluate_messages(round_)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Note what the clients say of their samples, and close the round with a checkpoint, and what generates."""
        self._collect_replies(replies, EvaluateReply, self._accept_evaluation)
        row = self.history.rounds[-1]
        self.done, row.seconds = row.round, self.progress.round_seconds
        self.history.client_infos = dict(sorted(self.client_manager.client_infos.items()))
        self.history.save(self._checkpoint())
        if self.config.evaluates(row.round):
            self.save()
        self.on_round(row)
        # It is 0 where there is no denoiser to have one.
        losses = {f"held-out-loss-{c}": e["held_out_loss"] for c, e in row.evaluation.items() if e.get("held_out_loss")}
        return MetricRecord(losses) if losses else None

    def summary(self) -> None:
        """Show what is about to run."""
        self.progress.say(
            f"{self.config.run.strategy}: {number_of(len(self.client_manager.client_infos), 'client')}"
            f"{self._cuts_in_words()}, {number_of(self.rounds_left, 'round')} on {self.runtime.device}"
        )

    def _cuts_in_words(self) -> str:
        """Where the clients cut what they share with the server, to go on a sentence with."""
        return ""

    def _server_flops(self, client_info: ClientInfo) -> int:
        """Floating-point operations of the server for one generated image of a client."""
        return 0

    def _threads(self) -> AbstractContextManager[None]:
        return threads(self.config.resources.server_threads or available_cores())

    def _message(self, client: int, request: object, kind: str) -> Message:
        row, content = self.history.rounds[-1], encode(request, self.wire_dtype)
        row.count(row.bytes_down, client, count_bytes(content))
        return Message(content, self.client_manager.nodes[client], kind, group_id=str(row.round))

    def _before_training(self, grid: Grid, round_: int) -> None:
        """What is done before clients get requests for what a round comes to; those who cannot leave `selected`."""

    def _before_evaluation(self, grid: Grid, round_: int) -> None:
        """What must be there before clients can finish samples; those who cannot leave `selected`."""

    def _sample_counts(self) -> dict[int, int]:
        """Samples of each selected client, in proportion to its images."""
        sizes = {client: self.client_manager.client_infos[client].num_images for client in self.selected}
        share = self.config.evaluation.num_samples / max(1, sum(sizes.values()))
        return {client: max(2, round(size * share)) for client, size in sizes.items()}

    def _evaluate_messages(self, round_: int) -> list[Message]:
        """A message for every client, with samples in proportion to its images."""
        messages, shown = [], {}
        for done, (client, count) in enumerate(self._sample_counts().items()):
            self.progress.step("sampling", done, len(self.selected))
            request, states = self._evaluate_request(client, round_, count)
            shown[str(client)] = states[:KEPT_HANDOFFS].clone()
            messages.append(self._message(client, request, "evaluate"))
        write_tensors(self.layout.handoffs, shown)
        return messages

    def _round_trip(
        self, grid: Grid, requests: Mapping[int, object], kind: str, reply: type[M], accept: Callable[[int, M], None]
    ) -> None:
        """One round trip with some clients; what went wrong is noted as in every strategy."""
        self.selected = sorted(requests)
        messages = [self._message(client, requests[client], kind) for client in self.selected]
        replies = grid.send_and_receive(messages, timeout=self.config.federation.round_timeout)
        self._collect_replies(replies, reply, accept)

    def _collect_replies(self, replies: Iterable[Message], kind: type[M], accept: Callable[[int, M], None]) -> None:
        """Accept each reply, in order of clients; a bad or missing one is noted and costs only itself."""
        row = self.history.rounds[-1]
        arrived = {self.client_manager.client_of(reply.metadata.src_node_id): reply for reply in replies}
        for client in self.selected:
            reply = arrived.get(client)
            if reason := failure(reply, self.config.federation.round_timeout):
                (row.rejected if is_too_large(reply) else row.failed)[str(client)] = reason
            elif reply is not None:
                row.count(row.bytes_up, client, count_bytes(reply.content))
                self._accept(client, partial(self._read, client, reply.content, kind, accept))

    def _read(self, client: int, content: RecordDict, kind: type[M], accept: Callable[[int, M], None]) -> None:
        accept(client, decode(kind, content, self.wire_dtype))

    def _accept(self, client: int, accept: Callable[[], None]) -> bool:
        """Whether what a client sent is accepted; if not, that is noted, and costs only this client."""
        try:
            accept()
        except UploadError as error:
            self.history.rounds[-1].rejected[str(client)] = last_line(str(error))
            return False
        return True

    def _gather_training(self, replies: Iterable[Message]) -> None:
        """Accept the replies of a round.

        Raises:
            RunFailed: so far nobody has contributed in any round.
        """
        self._collect_replies(replies, self.train_reply, self._accept_training)
        if not self._has_contributions():
            row = self.history.rounds[-1]
            reason = next(iter([*row.failed.values(), *row.rejected.values()]), "no client was selected")
            raise RunFailed(f"no client contributed in round {row.round}: {reason}")

    def _has_contributions(self) -> bool:
        """Whether there is anything to go on with."""
        return any(past.clients for past in self.history.rounds)

    def _accept_evaluation(self, client: int, reply: EvaluateReply) -> None:
        row = asdict(reply) | {"server_flops_per_image": self._server_flops(self.client_manager.client_infos[client])}
        self.history.rounds[-1].evaluation[str(client)] = {n: value for n, value in row.items() if value is not None}

    def _close_training(self, backbone_loss: float | None = None) -> MetricRecord:
        """Show what the round's training came to, and give it to Flower."""
        row = self.history.rounds[-1]
        losses = [own["loss"] for own in row.clients.values() if own["steps"] and own["loss"] is not None]
        self.progress.end_round(row.round, backbone_loss, losses, len(row.failed) + len(row.rejected))
        metrics = MetricRecord({} if backbone_loss is None else {"backbone-loss": backbone_loss})
        if losses:
            metrics["client-loss"] = sum(losses) / len(losses)
        return metrics
