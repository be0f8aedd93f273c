"""How long a run still takes: the work that is planned, at the pace of each kind of work so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

#: Seconds of a unit of work beside each other, as far as is known before any was done: a unit is a forward pass of a
#: network on one image. Clients train on small batches, which take two to five times as long for an image as large ones
#: at 8 to 16 pixels; a classifier is a fifth of a denoiser (measured on a CPU).
EXPECTED = {"clients": 3.0, "backbone": 1.0, "sampling": 1.0, "measuring": 0.2}


def expected_work(planned: Mapping[str, Sequence[float]]) -> list[float]:
    """The work of all parts of each round, and after the last, in units that should take equally long."""
    rounds = zip(*planned.values(), strict=True)
    return [sum(EXPECTED[part] * work for part, work in zip(planned, own, strict=True)) for own in rounds]


@dataclass
class TimeLeft:
    """What is planned, and what each kind of it has taken.

    `planned`: for each part of a round, as in `EXPECTED`, its work in round 1, 2, ..., and after the last round.
    """

    planned: Mapping[str, Sequence[float]]
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    done: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, part: str, round_: int, seconds: float) -> None:
        """Note that a part of a round is done, and took so long."""
        if work := self._work(part, round_):
            self.seconds[part] += seconds
            self.done[part] += work

    def left(self, round_: int, done: Mapping[str, float]) -> float | None:
        """Seconds from now on, within a round of which shares of parts are `done`; None before anything was.

        Parts that nothing was done of yet are expected to take as long as the others say, by `EXPECTED`.
        """
        expected = sum(EXPECTED[part] * work for part, work in self.done.items())
        if not expected:
            return None
        scale, left = sum(self.seconds.values()) / expected, 0.0
        for part, planned in self.planned.items():
            work = sum(planned[round_ - 1 :]) - done.get(part, 0.0) * self._work(part, round_)
            own = self.done.get(part)
            left += work * (self.seconds[part] / own if own else EXPECTED[part] * scale)
        return left

    def _work(self, part: str, round_: int) -> float:
        planned = self.planned.get(part, ())
        return planned[round_ - 1] if round_ <= len(planned) else 0.0
