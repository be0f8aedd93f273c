"""What a run is doing and what is left, in bars on a terminal, or as plain lines elsewhere."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from collafuse_flwr.core.time_left import TimeLeft

T = TypeVar("T")

#: Seconds that work takes before its progress is shown.
PATIENCE = 2.0
#: How the work of a round is spread over its bar: clients first, then the backbone.
CLIENTS_SHARE = 0.4


class Progress:
    """Progress of the rounds of one run.

    On a terminal it is a bar for the rounds and one for the step within, drawn anew; with `quiet`, or where the output
    is not a terminal, one line of text for each round.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=False, highlight=False, soft_wrap=True)
        self.live = self.console.is_terminal and not quiet and sys.stdout.isatty()
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[left]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=1.0, left="")
        #: The part of the round that is under way.
        self._step = self._bar.add_task("", total=1.0, left="", visible=False)
        self._round, self._first, self._total, self._clients = 0, 0, 1, 0
        self._began = self._began_round = self._began_part = time.monotonic()
        #: What is planned, if it is, the part of the round that is under way, and how far each is.
        self._time_left: TimeLeft | None = None
        self._part = ""
        self._within: dict[str, float] = {}

    def __enter__(self) -> Progress:
        if self.live:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self._bar.stop()

    def say(self, line: str) -> None:
        """Print one line above the bar."""
        self.console.print(line, markup=False)

    def plan(self, work: Mapping[str, Sequence[float]]) -> None:
        """Estimate the time left from the work of each round (`TimeLeft`), and not from the rounds so far alone."""
        self._time_left = TimeLeft(work)

    def begin_round(self, round_: int, num_rounds: int, clients: int) -> None:
        """Note that a round begins, with this many clients at work."""
        self._end_part()
        if not self._first:
            self._first, self._began = round_, time.monotonic()
        self._round, self._total, self._clients = round_, num_rounds, clients
        self._began_round = time.monotonic()
        self._within = {}
        self._begin_part("clients")
        self.step("clients", 0, clients)

    @property
    def round_seconds(self) -> float:
        """How long the round has taken so far."""
        return time.monotonic() - self._began_round

    def step(self, what: str, done: int, total: int) -> None:
        """Note how far a part of the round is: clients that replied, uploads denoised, backbone steps, samples."""
        part = done / max(total, 1)
        self._at(what, part)
        if not self.live or not self._round:
            return
        within = {
            "clients": CLIENTS_SHARE * part,
            "denoising": CLIENTS_SHARE,
            "backbone": CLIENTS_SHARE + (1 - CLIENTS_SHARE) * part,
        }.get(what, 1.0)
        self._bar.update(
            self._task,
            completed=(self._round - 1 + within) / self._total,
            description=f"round {self._round}/{self._total}",
            left=self._left(),
        )
        self._bar.update(self._step, completed=part, description=f"{what} {done}/{total}", visible=True)

    def end_round(self, round_: int, backbone: float | None, clients: list[float], lost: int) -> None:
        """Show the result of a round."""
        self._end_part()
        losses = [f"backbone loss {backbone:.4f}"] if backbone is not None else []
        losses += [f"client loss {statistics.fmean(clients):.4f} ({len(clients)} trained)"] if clients else []
        notes = [f"{lost} of {self._clients} clients lost"] if lost else []
        parts = [*losses, *notes, f"{self.round_seconds:.1f} s", self._left(finished=round_)]
        self.say(f"round {round_}/{self._total}: " + ", ".join(part for part in parts if part))
        self._begin_part("sampling")

    def begin_measuring(self) -> None:
        """Note that the samples of the run are measured."""
        self._end_part()
        # What is planned after the last round.
        self._round, self._within = self._total + 1, {}
        self.say("measuring the samples ..." + (f" {left}" if (left := self._planned_left()) else ""))

    def _at(self, what: str, share: float) -> None:
        """Note how far a part is; replies of clients also come in when they have made their samples."""
        # Denoising is planned as the backbone's work.
        if what in ("backbone", "denoising") and self._part == "clients":
            self._begin_part("backbone")
        if what == self._part or (what == "clients" and self._part == "sampling"):
            # Samples are begun one client after another, and finished in the order of the replies.
            self._within[self._part] = max(share, self._within.get(self._part, 0.0))

    def _begin_part(self, part: str) -> None:
        self._end_part()
        self._part, self._began_part = part, time.monotonic()

    def _end_part(self) -> None:
        """Count what the part that was under way took, all of which is done."""
        if self._time_left is not None and self._part:
            self._time_left.add(self._part, self._round, time.monotonic() - self._began_part)
            self._within[self._part] = 1.0
        self._part = ""

    def _planned_left(self) -> str:
        """The estimate from what is planned; empty without any."""
        seconds = self._time_left.left(self._round, self._within) if self._time_left is not None else None
        return "" if seconds is None else f"about {seconds:.0f} s left"

    def _left(self, finished: int | None = None) -> str:
        """An estimate of the seconds left, from what is planned or from the rounds done in this process."""
        if self._time_left is not None:
            return self._planned_left()
        rounds = (finished or self._round - 1) - self._first + 1
        if rounds < 1 or self._round >= self._total:
            return ""
        seconds = (time.monotonic() - self._began) / rounds * (self._total - self._first + 1 - rounds)
        return f"about {seconds:.0f} s left"


def counted(items: Sequence[T], what: str, *, total: int, scale: int = 1) -> Iterator[T]:
    """Go through `items` and say how far it is, on standard error, if it takes more than seconds.

    Each item stands for `scale` of `total` things. On a terminal it is one line that is drawn anew, elsewhere a line
    every ten seconds.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    patience = PATIENCE / 10 if console.is_terminal else 5 * PATIENCE
    began = time.monotonic()
    printed_at = began + PATIENCE - patience
    for done, item in enumerate(items, 1):
        yield item
        now, missing = time.monotonic(), len(items) - done
        if now - printed_at >= patience:
            printed_at = now
            left = (now - began) / done * missing
            line = f"{what}: {min(done * scale, total)} of {total}, about {left:.0f} s left"
            if console.is_terminal:
                console.print(line.ljust(80), markup=False, end="\r")
            else:
                console.print(line, markup=False)
    if console.is_terminal and printed_at > began:
        console.print()
