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

from collafuse_flwr.config import Config
from collafuse_flwr.errors import UploadError, UserError
from collafuse_flwr.files import write_tensors
from collafuse_flwr.process import Process
from collafuse_flwr.progress import Progress
from collafuse_flwr.runtime import available_cores, threads
from collafuse_flwr.wire import Hello, count_bytes, unpack_evaluate_reply, unpack_refusal
from strategies.journal import Journal, Round
from strategies.members import Members, last_line

#: Hand-overs of each client that are kept for the picture.
KEPT_HAND_OVERS = 32


class Federation(ABC):
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
        self.process = Process.of(config)
        self.members = Members(config)
        self.journal = Journal(folder)
        self.done = 0
        self.asked: list[int] = []

    @property
    def rounds_left(self) -> int:
        """Rounds still to run."""
        return self.config.run.num_rounds - self.done

    def join(self, grid: Grid) -> ArrayRecord:
        """Wait for clients, build what the server trains or holds, and take up a checkpoint; the arrays to start with.

        Raises:
            UserError: clients do not come in time, or none can take part.
        """
        saved = self.journal.load()
        self.members.restore(self.journal.hellos.values())
        self.members.wait(grid)
        with self._threads():
            self._build(next(iter(self.members.hellos.values())))
            if saved is not None:
                tensors, pool = saved
                device = self.process.runtime.device
                self._restore({name: value.to(device) for name, value in tensors.items()}, pool)
                self.done = len(self.journal.rounds)
                self.journal.write_metrics()
        return self._arrays()

    @abstractmethod
    def _build(self, hello: Hello) -> None:
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
        return [self._message(client, self._train_content(client, round_, arrays), "train") for client in self.asked]

    def _open_round(self, server_round: int, arrays: ArrayRecord, grid: Grid) -> int:
        """Begin a round with the clients who are there, and choose who takes part in it."""
        if server_round == 1 and not self.journal.rounds:
            self._begin_with(arrays)
        self.members.welcome(grid)
        round_ = self.done + 1
        hellos = self.members.hellos
        values = next(hello.channels * hello.size**2 for hello in hellos.values())
        cuts = {str(client): hello.cut_step for client, hello in hellos.items()}
        self.journal.rounds.append(Round(round_, values, cuts))
        self.asked = self.members.choose(round_)
        self.journal.rounds[-1].images = {str(c): self.members.hellos[c].num_images for c in self.asked}
        self.progress.begin_round(round_, self.config.run.num_rounds, len(self.asked))
        return round_

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every client for samples, in the rounds that evaluate."""
        self.asked = []
        round_ = self.journal.rounds[-1].round
        if not self._evaluates(round_):
            return []
        self.members.welcome(grid)
        self.asked = sorted(self.members.nodes)
        with self._threads():
            self._before_evaluation(grid, round_)
            return self._evaluate_messages(arrays, round_)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Note what the clients say about their samples, and close the round with a checkpoint."""
        row = self.journal.rounds[-1]
        self._gather(replies, self._accept_evaluation)
        self.done = row.round
        self.journal.hellos = dict(sorted(self.members.hellos.items()))
        tensors, pool = self._checkpoint()
        self.journal.save({name: value.cpu() for name, value in tensors.items()}, pool)
        # It is 0 where there is no denoiser to have one.
        losses = {f"held-out-loss-{c}": e["held_out_loss"] for c, e in row.evaluation.items() if e["held_out_loss"]}
        return MetricRecord(losses) if losses else None

    def summary(self) -> None:
        """Say what is about to run."""
        self.progress.say(
            f"{self.config.run.strategy}: {len(self.members.hellos)} clients{self._cuts_in_words()}, "
            f"{self.rounds_left} rounds on {self.process.runtime.device}"
        )

    def _cuts_in_words(self) -> str:
        """Where the clients cut what they share with the server, to go on a sentence with."""
        cuts = sorted({hello.cut_step for hello in self.members.hellos.values()})
        return f", cut step {', '.join(map(str, cuts))} of {self.process.schedule.timesteps}"

    @abstractmethod
    def _begin_with(self, arrays: ArrayRecord) -> None:
        """Begin a fresh run with the arrays that `start` was given."""

    def _server_flops(self, hello: Hello) -> int:
        """Floating-point operations of the server for one generated image of a client."""
        return 0

    def _evaluates(self, round_: int) -> bool:
        every = self.config.evaluation.evaluate_every
        return round_ == self.config.run.num_rounds or bool(every and round_ % every == 0)

    def _threads(self) -> AbstractContextManager[None]:
        return threads(self.config.federation.server_threads or available_cores())

    def _message(self, client: int, content: RecordDict, kind: str) -> Message:
        row = self.journal.rounds[-1]
        row.count(row.bytes_down, client, count_bytes(content))
        return Message(content, self.members.nodes[client], kind, group_id=str(row.round))

    def _before_training(self, grid: Grid, round_: int) -> None:  # noqa: B027 (most strategies do nothing)
        """What is done before clients are asked for what a round comes to; those who cannot leave `asked`."""

    def _before_evaluation(self, grid: Grid, round_: int) -> None:  # noqa: B027
        """What must be known before clients can be asked to finish samples; those who cannot leave `asked`."""

    def _counts(self) -> dict[int, int]:
        """Samples of each client that is asked, in proportion to its images."""
        sizes = {client: self.members.hellos[client].num_images for client in self.asked}
        wanted = self.config.evaluation.num_samples / max(1, sum(sizes.values()))
        return {client: max(2, round(size * wanted)) for client, size in sizes.items()}

    def _evaluate_messages(self, arrays: ArrayRecord, round_: int) -> list[Message]:
        """A message for every client, with samples in proportion to its images."""
        messages, shown = [], {}
        for done, (client, count) in enumerate(self._counts().items()):
            self.progress.step("sampling", done, len(self.asked))
            content, states = self._evaluate_content(client, round_, count, arrays)
            shown[str(client)] = states[:KEPT_HAND_OVERS].clone()
            messages.append(self._message(client, content, "evaluate"))
        write_tensors(self.folder / "server" / "hand_over.safetensors", shown)
        return messages

    def _exchange(
        self,
        grid: Grid,
        contents: dict[int, RecordDict],
        kind: str,
        accept: Callable[[int, RecordDict], None],
    ) -> None:
        """One round trip with some clients; what went wrong is noted as in every strategy."""
        self.asked = sorted(contents)
        messages = [self._message(client, contents[client], kind) for client in self.asked]
        replies = grid.send_and_receive(messages, timeout=self.config.federation.round_timeout)
        self._gather(replies, accept)

    def _gather(self, replies: Iterable[Message], accept: Callable[[int, RecordDict], None]) -> None:
        """Accept each reply, in order of clients; a bad or missing one is noted and costs only itself."""
        row = self.journal.rounds[-1]
        arrived = {self.members.client_of(reply.metadata.src_node_id): reply for reply in replies}
        for client in self.asked:
            reply = arrived.get(client)
            if reply is None:
                row.failed[str(client)] = f"no reply within {self.config.federation.round_timeout:g} seconds"
            elif reply.has_error():
                row.failed[str(client)] = last_line(reply.error.reason)
            elif (refusal := unpack_refusal(reply.content)) is not None:
                row.failed[str(client)] = refusal.reason
            else:
                row.count(row.bytes_up, client, count_bytes(reply.content))
                self._admit(client, partial(accept, client, reply.content))

    def _admit(self, client: int, accept: Callable[[], None]) -> bool:
        """Whether what a client sent is accepted; if not, that is noted, and costs only this client."""
        try:
            accept()
        except UploadError as error:
            self.journal.rounds[-1].rejected[str(client)] = str(error)
            return False
        return True

    def _gather_training(self, replies: Iterable[Message], accept: Callable[[int, RecordDict], None]) -> None:
        """Accept the replies of a round.

        Raises:
            UserError: so far nobody has contributed in any round.
        """
        self._gather(replies, accept)
        if not any(past.clients for past in self.journal.rounds):
            raise self._nobody()

    def _accept_evaluation(self, client: int, content: RecordDict) -> None:
        reply, hello = unpack_evaluate_reply(content), self.members.hellos[client]
        row = asdict(reply) | {"server_flops_per_image": self._server_flops(hello)}
        self.journal.rounds[-1].evaluation[str(client)] = row

    def _close_training(self, backbone_loss: float | None) -> MetricRecord:
        """Show what the round's training came to, and give it to Flower."""
        row = self.journal.rounds[-1]
        losses = [client["loss"] for client in row.clients.values() if client["steps"]]
        self.progress.end_round(row.round, backbone_loss, losses, len(row.failed) + len(row.rejected))
        metrics = MetricRecord({} if backbone_loss is None else {"backbone-loss": backbone_loss})
        if losses:
            metrics["client-loss"] = sum(losses) / len(losses)
        return metrics

    def _nobody(self) -> UserError:
        """The error of a round to which nobody contributed, with one client's reason."""
        row = self.journal.rounds[-1]
        reason = next(iter([*row.failed.values(), *row.rejected.values()]), "nobody was asked")
        return UserError(f"no client contributed in round {row.round}: {reason}")
