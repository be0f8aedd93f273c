"""How far a run is, from the files in its folder, while it runs and afterwards."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import UserError
from collafuse_flwr.core.text import last_line
from collafuse_flwr.core.time_left import expected_work
from collafuse_flwr.runs.cost_report import client_costs, total
from collafuse_flwr.runs.dp_report import describe_guarantee, describe_updates, dp_guarantees
from collafuse_flwr.runs.history import RoundRecord, read_rounds
from collafuse_flwr.runs.round_scalars import round_scalars
from collafuse_flwr.runs.run_dir import read_config
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.setup.planned_work import planned_work

Phase = Literal["running", "measuring its samples", "finished", "stopped in the middle"]
#: A run that writes nothing for so many times its longest round, and for so many seconds, has stopped.
STALE_ROUNDS = 5
STALE_SECONDS = 60.0
#: The same before the first round, where samples are measured, and in the first round that evaluates: no round says yet
#: how long these take.
UNTIMED_SECONDS = 600.0
#: Lost contributions that are listed, the latest.
LISTED = 5


@dataclass(frozen=True)
class RunStatus:
    """What the folder of a run says at one time.

    Attributes:
        written: when the last round was closed, or the run opened, in seconds since 1970.
        summary: what was measured at the end; None before.
        disclosure: lines on what has left the clients so far.
        can_resume: whether there is a checkpoint to go on from.
    """

    folder: Path
    config: Config
    rounds: list[RoundRecord]
    written: float
    summary: dict[str, Any] | None
    disclosure: list[str]
    can_resume: bool

    @classmethod
    def of(cls, folder: Path) -> RunStatus:
        """Read the folder; nothing is written.

        Raises:
            SettingError: it holds no run.
            UserError: another version has written it, or a file is damaged.
        """
        config, layout = read_config(folder, "run"), RunLayout(folder)
        written = max(path.stat().st_mtime for path in (layout.config, layout.metrics) if path.exists())
        rounds = read_rounds(folder)
        return cls(
            folder,
            config,
            rounds,
            written,
            _summary(layout.summary),
            _disclosure(config, rounds),
            layout.checkpoint.is_file(),
        )

    @property
    def done(self) -> int:
        """Rounds that are closed."""
        return len(self.rounds)

    @property
    def round_seconds(self) -> float | None:
        """The mean of the rounds; None before the first."""
        return statistics.fmean(row.seconds for row in self.rounds) if self.rounds else None

    def silence(self, now: float) -> float:
        """Seconds since it last wrote."""
        return max(now - self.written, 0.0)

    def seconds_left(self, now: float) -> float | None:
        """An estimate of what is left, the round under way and measuring among it; None before the first round."""
        if self.round_seconds is None:
            return None
        work = self._expected_work()
        if not (done := sum(work[: self.done])):
            return None
        pace = sum(row.seconds for row in self.rounds) / done
        under_way, later = work[self.done] * pace, sum(work[self.done + 1 :]) * pace
        return later + max(under_way - self.silence(now), 0.0)

    def _expected_work(self) -> list[float]:
        """What each round takes beside the others, and the measuring after the last; of GANs all rounds alike."""
        rounds, images = self.config.run.num_rounds, {c: n for row in self.rounds for c, n in row.images.items()}
        if self.config.spec.is_gan or not images:
            return [1.0] * rounds + [0.0]
        cuts, mean = {c: cut for row in self.rounds for c, cut in row.cuts.items()}, statistics.fmean(images.values())
        # Who was not chosen yet has as many images as the others.
        clients = [(round(images.get(client, mean)), cut) for client, cut in cuts.items()]
        measured = RunLayout(self.folder).clients.is_dir()
        return expected_work(planned_work(self.config, clients, measured=measured))

    def phase(self, now: float) -> Phase:
        """What it is doing; that it has stopped is a guess, from how long it has written nothing."""
        if self.summary is not None:
            return "finished"
        if self.silence(now) > self.patience:
            return "stopped in the middle"
        return "running" if self.done < self.config.run.num_rounds else "measuring its samples"

    @property
    def patience(self) -> float:
        """Seconds of silence after which a run is taken to have stopped."""
        longest = max((row.seconds for row in self.rounds), default=0.0)
        current, last = self.done + 1, self.config.run.num_rounds
        evaluated = not self.config.evaluates(current) or any(row.evaluation for row in self.rounds)
        timed = longest and current <= last and evaluated
        return max(STALE_ROUNDS * longest, STALE_SECONDS if timed else UNTIMED_SECONDS)

    def lines(self, now: float) -> list[str]:
        """Everything in words, a line for each thing."""
        phase, config = self.phase(now), self.config
        shown = [f"{self.folder}: {phase} ({config.run.strategy} on {config.data.name})", self._progress(phase, now)]
        if phase == "stopped in the middle":
            advice = ", `resume=true` goes on after the last round" if self.can_resume else ""
            shown.append(f"nothing was written for {duration(self.silence(now))}{advice}")
        if self.rounds:
            row = self.rounds[-1]
            shown += [f"round {row.round}: {describe_round(row)}", *self._lost(), self._traffic(), *self.disclosure]
        if self.summary is not None:
            shown += _quality(self.summary)
        return shown

    def _progress(self, phase: Phase, now: float) -> str:
        parts = [f"round {self.done} of {self.config.run.num_rounds}"]
        if self.round_seconds is not None:
            parts.append(f"{self.round_seconds:.1f} s a round")
        left = self.seconds_left(now)
        if phase == "running" and left is not None:
            parts.append(f"about {duration(left)} left")
        return ", ".join(parts)

    def _lost(self) -> list[str]:
        """The latest contributions that were lost, with their reasons."""
        lost = [
            (row.round, client, kind, reason)
            for row in self.rounds
            for kind, own in (("failed", row.failed), ("was rejected", row.rejected))
            for client, reason in own.items()
        ]
        head = [f"lost so far: {len(lost)} contributions" + (", the latest:" if len(lost) > LISTED else "")]
        # What is in the file may be of an earlier version, which took reasons as they came.
        shown = [f"  round {r}, client {client} {kind}: {last_line(reason)}" for r, client, kind, reason in lost]
        return head + shown[-LISTED:] if lost else []

    def _traffic(self) -> str:
        up, down = (sum(sum(getattr(row, way).values()) for row in self.rounds) for way in ("bytes_up", "bytes_down"))
        return f"traffic so far: {up / 1e6:.2f} MB up, {down / 1e6:.2f} MB down"


def describe_round(row: RoundRecord) -> str:
    """One round in words: clients, and losses."""
    scalars = round_scalars(row)
    clients = ", ".join(f"{scalars[f'clients/{name}']:.0f} {name}" for name in ("answered", "failed", "rejected"))
    losses = [f"{key.partition('/')[2]} loss {x:.4f}" for key, x in scalars.items() if key.startswith("loss/")]
    return ", ".join([f"clients {clients}", *losses, f"{row.seconds:.1f} s"])


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if hours < 2 else f"{hours:.1f} h"


def _summary(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        summary: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    return summary


def _disclosure(config: Config, rounds: list[RoundRecord]) -> list[str]:
    """What has left the clients: of numbers, the largest of any client."""
    if not rounds:
        return []
    clients = client_costs(config, [asdict(row) for row in rounds])
    values, sent = rounds[0].values, list(config.spec.sends)
    guarantees = dp_guarantees(config, values, clients) if values else {}
    releases = max((c["releases"] for c in clients if c["releases"] is not None), default=None)
    largest = total(clients)
    parts = [f"{', '.join(sent) or 'numbers only'}"]
    if "images" in sent:
        parts += [f"releases of an image {'not said' if releases is None else releases}"]
        snr = largest["snr_db"]
        parts += ["clean images"] if snr == math.inf else [f"SNR at the cut {snr:.1f} dB"] if snr is not None else []
        parts += [f"at most {largest['bits']:.1f} bits of an image"] if largest["bits"] is not None else []
    statements = [describe(config, guarantees) for describe in (describe_guarantee, describe_updates)]
    return [f"disclosed so far: {'; '.join(parts)}", *filter(None, statements)]


def _quality(summary: dict[str, Any]) -> list[str]:
    named = {"fd": "Fréchet distance", "tstr": "TSTR"}
    pooled = summary["pooled"]
    parts = [f"{heading} {pooled[key]:.3g}" for key, heading in named.items() if pooled.get(key) is not None]
    return [f"quality of all samples: {', '.join(parts)}"] if parts else []
