"""The cuts with the shortest modelled iteration, exactly.

At one end of the nets let S < A and R < B be required. With more blocks on the clients the server is quicker for
everybody, so that if two choices meet (A, B), the larger of each client's two levels does as well: there is a largest
choice that meets them, or none does. It is found from above, lowering whoever would be late until nobody is. Tightening
B after each find gives the least R for an A, and tightening A then the next point of the frontier of (S, R), on which
the smallest sum lies. Equal devices come out equal. The ends are independent unless memory couples them: then what a
kind of device can hold is branched on, from the best bound on.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from collafuse_flwr.core.errors import SettingError, UserError
from collafuse_flwr.gan.networks import Cuts
from collafuse_flwr.gan.planning.latency_model import ENDS, IntArray, LatencyModel, NetEnd

#: No extra blocks anywhere.
KEEP_LEAST = Cuts()


@dataclass(frozen=True)
class CutPlan:
    """A cut for every client, and the modelled seconds of an iteration."""

    cuts: tuple[Cuts, ...]
    seconds: float


def plan_cuts(model: LatencyModel, least: Cuts = KEEP_LEAST) -> CutPlan:
    """The best cuts that keep `least` or more with each client and fit its memory; equal devices have equal cuts.

    Without limits of memory unequal cuts for equal devices would be no better; with them they might.

    Raises:
        UserError: no cut does both.
    """
    return plan_within(model, *bounds(model, least))


def plan_within(model: LatencyModel, low: IntArray, high: IntArray) -> CutPlan:
    """The best cuts of `low` to `high` extra blocks, (4, kinds) each, of which the fewest fit each kind's memory."""
    solve = lru_cache(maxsize=None)(lambda end, limit: _best(model.ends[end], low[end], np.array(limit)))

    def node(high: IntArray) -> _Node:
        solved = [solve(end, tuple(limit)) for end, limit in enumerate(high.tolist())]
        return _Node(sum(seconds for seconds, _ in solved), np.stack([extra for _, extra in solved]), high)

    queue = [node(high)]
    while True:
        best = heapq.heappop(queue)
        over = np.flatnonzero(model.memory(best.extra) > model.capacity()).tolist()
        if not over:
            return finished(model, best.extra)
        # Of the kinds that hold too much, the one whose limits cost most: bounds rise soonest.
        children = [[node(tighter) for tighter in _largest_that_fit(model, low, best.high, kind)] for kind in over]
        for child in max(children, key=min):
            heapq.heappush(queue, child)


@dataclass(frozen=True, eq=False)
class _Node:
    """Limits to the extra blocks of ends and kinds, (4, kinds), the best choice within them, and its time."""

    seconds: float
    extra: IntArray
    high: IntArray

    def __lt__(self, other: _Node) -> bool:
        return self.seconds < other.seconds


def bounds(model: LatencyModel, least: Cuts) -> tuple[IntArray, IntArray]:
    """The fewest and the most extra blocks, (4, kinds) each.

    Raises:
        UserError: an end has fewer blocks than it must keep, or they do not fit a device's memory.
    """
    low = model.extra([least] * len(model.kinds))
    most = [end.levels - 1 for end in model.ends]
    for name, end in zip(ENDS, most, strict=True):
        if getattr(least, name) > end:
            raise SettingError("split_gan.min_cut", str(least), f"at most {end} for these networks in {name}")
    for kind in np.flatnonzero(model.memory(low) > model.capacity()):
        device, needed = model.kinds[kind], model.memory(low)[kind]
        raise UserError(
            f"client {model.kind_of.index(kind)} (device {device.name}) has {device.memory / 1e6:g} MB for its "
            f"networks, and the smallest cut that is allowed, {least}, needs {needed / 1e6:.1f} MB"
        )
    return low, np.repeat(np.array(most)[:, None], len(model.kinds), 1)


def finished(model: LatencyModel, extra: IntArray) -> CutPlan:
    """Extra blocks of every end and kind, (4, kinds), as the cuts of the clients."""
    cuts = [Cuts(*levels) for levels in extra.T.tolist()]
    return CutPlan(tuple(cuts[kind] for kind in model.kind_of), float(model.seconds(extra)))


def _best(end: NetEnd, low: IntArray, high: IntArray) -> tuple[float, IntArray]:
    """The least S + R of an end whose kinds have `low` to `high` extra blocks, (kinds,) each, and these blocks."""
    best, start = (math.inf, low), math.inf
    while True:
        fastest, finish = None, math.inf
        while (lower := _largest(end, low, high, start, finish)) is not None:
            fastest, finish = lower, float(end.times(lower)[1])
        if fastest is None:
            return best
        start = float(end.times(fastest)[0])
        if start + finish < best[0]:
            best = start + finish, fastest


def _largest(end: NetEnd, low: IntArray, high: IntArray, start: float, finish: float) -> IntArray | None:
    """The largest choice with S < start and R < finish, or None."""
    levels, extra = np.arange(end.levels), high
    while True:
        arrive, done = end.reach(extra)
        fits = (arrive < start) & (done < finish) & (levels >= low[:, None]) & (levels <= extra[:, None])
        if not fits.any(-1).all():
            return None
        lower = end.levels - 1 - fits[:, ::-1].argmax(-1)
        if (lower == extra).all():
            return extra
        extra = lower


def _largest_that_fit(model: LatencyModel, low: IntArray, high: IntArray, kind: int) -> Iterator[IntArray]:
    """Limits, (4, kinds), whose column for a kind fits its memory, by every choice to which no block can be added."""
    ranges = [range(a, b + 1) for a, b in zip(low[:, kind].tolist(), high[:, kind].tolist(), strict=True)]

    def fits(extra: tuple[int, ...]) -> bool:
        memory = sum(end.memory[level] for end, level in zip(model.ends, extra, strict=True))
        return bool(memory <= model.kinds[kind].memory)

    for extra in filter(fits, itertools.product(*ranges)):
        more = ((*extra[:e], extra[e] + 1, *extra[e + 1 :]) for e in range(len(extra)) if extra[e] < high[e, kind])
        if not any(map(fits, more)):
            tighter = high.copy()
            tighter[:, kind] = extra
            yield tighter
