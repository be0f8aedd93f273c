"""What every strategy's server does alike: who takes part, what is noted, when to evaluate, how to go on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.atomic_io import write_tensors
from collafuse_flwr.core.errors import UploadError, UserError
from collafuse_flwr.core.progress import Progress
from collafuse_flwr.core.runtime import available_cores, threads
from collafuse_flwr.diffusion.setup import DiffusionSetup
from collafuse_flwr.runs.history import History, RoundRecord
from collafuse_flwr.wire.codec import count_bytes, unpack_client_error
from collafuse_flwr.wire.collafuse import ClientInfo, unpack_evaluate_reply
from strategies.client_manager import ClientManager, last_line

#: Hand-overs of each client that are kept for the picture.
KEPT_HANDOFFS = 32


class BaseStrategy(ABC):
    """The rounds of a run, with their journal; to be combined with a Flower strategy.

    It is used as any Flower strategy::

        strategy = CollaFuse(config, folder, Progress(...))
        arrays = strategy.join(grid)
        strategy.start(grid, arrays, num_rounds=strategy.rounds_left)

    `join` waits for the clients and takes up a checkpoint in the folder, if there is one; rounds that it holds are not
    run again.
    """

    def __init__(self, config: Config, folder: Path, progress: Progress) -> None:
        self.config, self.folder, self.progress = config, folder, progress
        self.setup = DiffusionSetup.of(config)
        self.client_manager = ClientManager(config)
        self.history = History(folder)
        self.done = 0
        self.selected: list[int] = []

    @property
    def rounds_left(self) -> int:
        """Rounds still to run."""
        return self.config.run.num_rounds - self.done

    def connect(self, grid: Grid) -> ArrayRecord:
        """Wait for clients, build what the server trains or holds, and take up a checkpoint; the arrays to start with.

        Raises:
            UserError: clients do not come in time, or none can take part.
        """
        saved = self.history.load()
        self.client_manager.restore(self.history.client_infos.values())
        self.client_manager.wait(grid)
        with self._threads():
            self._build(next(iter(self.client_manager.client_infos.values())))
            if saved is not None:
                tensors, pool = saved
                device = self.setup.runtime.device
                self._restore({name: value.to(device) for name, value in tensors.items()}, pool)
                self.done = len(self.history.rounds)
                self.history.write_metrics()
        return self._arrays()

    @abstractmethod
    def _build(self, client_info: ClientInfo) -> None:
        """Make what the server trains or holds, for images as a client describes them."""

    @abstractmethod
    def _restore(self, tensors: dict[str, Tensor], pool: str) -> None:
        """Take up what `_checkpoint` gave."""

    @abstractmethod
    def _checkpoint(self) -> tuple[dict[str, Tensor], str]:
        """Everything the server must keep beside the journal: tensors, and a description of the pool."""

    @abstractmethod
    def _arrays(self) -> ArrayRecord:
        """Flower's global arrays."""

    @abstractmethod
    def _train_content(self, client: int, round_: int, arrays: ArrayRecord) -> RecordDict:
        """What a client is asked to do in a round."""

    @abstractmethod
    def _evaluate_content(self, client: int, round_: int, count: int, arrays: ArrayRecord) -> tuple[RecordDict, Tensor]:
        """What a client makes `count` samples from, and the states in it."""

    @abstractmethod
    def save(self) -> None:
        """Write the server's network, with its averaged weights, as a diffusers folder."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Open a round, choose its clients, and ask each of them to train."""
        round_ = self._open_round(server_round, arrays, grid)
        with self._threads():
            self._before_training(grid, round_)
        return [self._message(client, self._train_content(client, round_, arrays), "train") for client in self.selected]

    def _open_round(self, server_round: int, arrays: ArrayRecord, grid: Grid) -> int:
        """Begin a round with the clients who are there, and choose who takes part in it."""
        if server_round == 1 and not self.history.rounds:
            self._load_initial(arrays)
        self.client_manager.register_new(grid)
        round_ = self.done + 1
        client_infos = self.client_manager.client_infos
        values = next(client_info.channels * client_info.size**2 for client_info in client_infos.values())
        cuts = {str(client): client_info.cut_step for client, client_info in client_infos.items()}
        self.history.rounds.append(RoundRecord(round_, values, cuts))
        self.selected = self.client_manager.sample(round_)
        self.history.rounds[-1].images = {str(c): self.client_manager.client_infos[c].num_images for c in self.selected}
        self.progress.begin_round(round_, self.config.run.num_rounds, len(self.selected))
        return round_

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every client for samples, in the rounds that evaluate."""
        self.selected = []
        round_ = self.history.rounds[-1].round
        if not self._is_eval_round(round_):
            return []
        self.client_manager.register_new(grid)
        self.selected = sorted(self.client_manager.nodes)
        with self._threads():
            self._before_evaluation(grid, round_)
            return self._evaluate_messages(arrays, round_)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Note what the clients say about their samples, and close the round with a checkpoint."""
        row = self.history.rounds[-1]
        self._collect_replies(replies, self._accept_evaluation)
        self.done = row.round
        self.history.client_infos = dict(sorted(self.client_manager.client_infos.items()))
        tensors, pool = self._checkpoint()
        self.history.save({name: value.cpu() for name, value in tensors.items()}, pool)
        # It is 0 where there is no denoiser to have one.
        losses = {f"held-out-loss-{c}": e["held_out_loss"] for c, e in row.evaluation.items() if e["held_out_loss"]}
        return MetricRecord(losses) if losses else None

    def summary(self) -> None:
        """Say what is about to run."""
        self.progress.say(
            f"{self.config.run.strategy}: {len(self.client_manager.client_infos)} clients{self._cuts_in_words()}, "
            f"{self.rounds_left} rounds on {self.setup.runtime.device}"
        )

    def _cuts_in_words(self) -> str:
        """Where the clients cut what they share with the server, to go on a sentence with."""
        cuts = sorted({client_info.cut_step for client_info in self.client_manager.client_infos.values()})
        return f", cut step {', '.join(map(str, cuts))} of {self.setup.schedule.timesteps}"

    @abstractmethod
    def _load_initial(self, arrays: ArrayRecord) -> None:
        """Begin a fresh run with the arrays that `start` was given."""

    def _server_flops(self, client_info: ClientInfo) -> int:
        """Floating-point operations of the server for one generated image of a client."""
        return 0

    def _is_eval_round(self, round_: int) -> bool:
        every = self.config.evaluation.evaluate_every
        return round_ == self.config.run.num_rounds or bool(every and round_ % every == 0)

    def _threads(self) -> AbstractContextManager[None]:
        return threads(self.config.federation.server_threads or available_cores())

    def _message(self, client: int, content: RecordDict, kind: str) -> Message:
        row = self.history.rounds[-1]
        row.count(row.bytes_down, client, count_bytes(content))
        return Message(content, self.client_manager.nodes[client], kind, group_id=str(row.round))

    def _before_training(self, grid: Grid, round_: int) -> None:  # noqa: B027 (most strategies do nothing)
        """What is done before clients are asked for what a round comes to; those who cannot leave `asked`."""

    def _before_evaluation(self, grid: Grid, round_: int) -> None:  # noqa: B027
        """What must be known before clients can be asked to finish samples; those who cannot leave `asked`."""

    def _sample_counts(self) -> dict[int, int]:
        """Samples of each client that is asked, in proportion to its images."""
        sizes = {client: self.client_manager.client_infos[client].num_images for client in self.selected}
        wanted = self.config.evaluation.num_samples / max(1, sum(sizes.values()))
        return {client: max(2, round(size * wanted)) for client, size in sizes.items()}

    def _evaluate_messages(self, arrays: ArrayRecord, round_: int) -> list[Message]:
        """A message for every client, with samples in proportion to its images."""
        messages, shown = [], {}
        for done, (client, count) in enumerate(self._sample_counts().items()):
            self.progress.step("sampling", done, len(self.selected))
            content, states = self._evaluate_content(client, round_, count, arrays)
            shown[str(client)] = states[:KEPT_HANDOFFS].clone()
            messages.append(self._message(client, content, "evaluate"))
        write_tensors(self.folder / "server" / "hand_over.safetensors", shown)
        return messages

    def _round_trip(
        self,
        grid: Grid,
        contents: dict[int, RecordDict],
        kind: str,
        accept: Callable[[int, RecordDict], None],
    ) -> None:
        """One round trip with some clients; what went wrong is noted as in every strategy."""
        self.selected = sorted(contents)
        messages = [self._message(client, contents[client], kind) for client in self.selected]
        replies = grid.send_and_receive(messages, timeout=self.config.federation.round_timeout)
        self._collect_replies(replies, accept)

    def _collect_replies(self, replies: Iterable[Message], accept: Callable[[int, RecordDict], None]) -> None:
        """Accept each reply, in order of clients; a bad or missing one is noted and costs only itself."""
        row = self.history.rounds[-1]
        arrived = {self.client_manager.client_of(reply.metadata.src_node_id): reply for reply in replies}
        for client in self.selected:
            reply = arrived.get(client)
            if reply is None:
                row.failed[str(client)] = f"no reply within {self.config.federation.round_timeout:g} seconds"
            elif reply.has_error():
                row.failed[str(client)] = last_line(reply.error.reason)
            elif (refusal := unpack_client_error(reply.content)) is not None:
                row.failed[str(client)] = refusal.reason
            else:
                row.count(row.bytes_up, client, count_bytes(reply.content))
                self._accept(client, partial(accept, client, reply.content))

    def _accept(self, client: int, accept: Callable[[], None]) -> bool:
        """Whether what a client sent is accepted; if not, that is noted, and costs only this client."""
        try:
            accept()
        except UploadError as error:
            self.history.rounds[-1].rejected[str(client)] = str(error)
            return False
        return True

    def _gather_training(self, replies: Iterable[Message], accept: Callable[[int, RecordDict], None]) -> None:
        """Accept the replies of a round.

        Raises:
            UserError: so far nobody has contributed in any round.
        """
        self._collect_replies(replies, accept)
        if not any(past.clients for past in self.history.rounds):
            raise self._no_contribution_error()

    def _accept_evaluation(self, client: int, content: RecordDict) -> None:
        reply, client_info = unpack_evaluate_reply(content), self.client_manager.client_infos[client]
        row = asdict(reply) | {"server_flops_per_image": self._server_flops(client_info)}
        self.history.rounds[-1].evaluation[str(client)] = row

    def _close_training(self, backbone_loss: float | None) -> MetricRecord:
        """Show what the round's training came to, and give it to Flower."""
        row = self.history.rounds[-1]
        losses = [client["loss"] for client in row.clients.values() if client["steps"]]
        self.progress.end_round(row.round, backbone_loss, losses, len(row.failed) + len(row.rejected))
        metrics = MetricRecord({} if backbone_loss is None else {"backbone-loss": backbone_loss})
        if losses:
            metrics["client-loss"] = sum(losses) / len(losses)
        return metrics

    def _no_contribution_error(self) -> UserError:
        """The error of a round to which nobody contributed, with one client's reason."""
        row = self.history.rounds[-1]
        reason = next(iter([*row.failed.values(), *row.rejected.values()]), "nobody was asked")
        return UserError(f"no client contributed in round {row.round}: {reason}")
