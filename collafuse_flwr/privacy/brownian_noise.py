"""A Brownian path that can be sampled at any time, in any order, by any process: a virtual Brownian tree.

Releases at several noise levels, each with noise of its own, average to a clearer image than any of them. On one path
W they do not: x_0 + W(a) with a < b gives x_0 + W(b) by adding noise that knows nothing of x_0, so all of them together
tell what the one at the earliest time tells (time is 1 / snr).

The path is drawn on a grid: the octaves [2^j, 2^(j + 1)], each halved ten times. A point's value follows from those
around it by a Brownian bridge, W(m) ~ N((W(a) + W(b)) / 2, (b - a) / 4) for m in the middle of a and b (Li et al.,
arXiv 2001.01328, section 4), and from one normal draw, keyed by the secret, the path's name and the point.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from collafuse_flwr.core.rng import keyed_generator

#: Points in an octave. A time between two is taken as the later: at most 0.1 % more noise, 0.004 dB, and never less.
POINTS = 2**10
#: Octaves are counted from here, so that no point has a negative number; a float's exponent is above.
_FIRST_OCTAVE = -1100


def brownian_path(secret: bytes, path: bytes, shape: tuple[int, ...], time: float) -> NDArray[np.float64]:
    """W(time) of independent standard Brownian motions, a function of secret, path, shape and time alone.

    Args:
        secret: 16 bytes that never leave the client.
        path: the name of the path.
        shape: one motion for each element.
        time: > 0, finite; the variance.
    """
    octave, place = grid_point(time)

    def draw(at_octave: int, at_place: int) -> NDArray[np.float64]:
        point = (at_octave - _FIRST_OCTAVE) * POINTS + at_place
        return keyed_generator(secret, path, point).standard_normal(shape)

    begin, end = _octave_ends(octave, draw(0, 0), lambda j: draw(j, 0))
    low, high = 0, POINTS
    while place != low:
        middle, width = (low + high) // 2, math.ldexp((high - low) / POINTS, octave)
        value = (begin + end) / 2 + math.sqrt(width / 4) * draw(octave, middle)
        if place >= middle:
            low, begin = middle, value
        else:
            high, end = middle, value
    return begin


def grid_point(time: float) -> tuple[int, int]:
    """Octave j and place i of the first point that is not before a time, 2^j (1 + i / POINTS) >= time.

    Raises:
        ValueError: the time is not positive and finite.
    """
    if not 0 < time < math.inf:
        raise ValueError(f"`time` = {time} must be positive and finite")
    mantissa, exponent = math.frexp(time)
    place = math.ceil((2 * mantissa - 1) * POINTS)
    return (exponent, 0) if place == POINTS else (exponent - 1, place)


def _octave_ends(
    octave: int, at_one: NDArray[np.float64], draw: Callable[[int], NDArray[np.float64]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """W at both ends of an octave, from W(1): upwards by independent increments, downwards by bridges from W(0) = 0."""
    value = at_one
    if octave >= 0:
        for j in range(octave):
            value = value + math.sqrt(math.ldexp(1.0, j)) * draw(j + 1)
        return value, value + math.sqrt(math.ldexp(1.0, octave)) * draw(octave + 1)
    end = value
    for j in range(0, octave, -1):
        end, value = value, value / 2 + math.sqrt(math.ldexp(1.0, j) / 4) * draw(j - 1)
    return value, end
