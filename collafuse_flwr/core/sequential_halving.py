"""A bandit that finds the best of a few arms in a fixed number of pulls, and keeps to it."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace


def halvings(num_arms: int) -> int:
    """ceil(log2 K), the phases after which one of K arms is left."""
    return math.ceil(math.log2(num_arms))


def fewest_pulls(num_arms: int) -> int:
    """K ceil(log2 K), the smallest budget that pulls each arm of each phase: n / (|S| ceil(log2 K)) >= 1."""
    return num_arms * halvings(num_arms)


@dataclass(frozen=True)
class SequentialHalving:
    """Sequential Halving (Karnin, Koren and Somekh, ICML 2013, algorithm 1), which arXiv 1502.07943 needs no noise for.

    In each of ceil(log2 K) phases every arm of S, those that are left, is pulled

        q = max(1, floor(n / (|S| ceil(log2 K))))

    times, and the ceil(|S| / 2) with the largest mean reward of the phase stay. The last one is pulled for ever. For
    independent rewards in [0, 1] it is not the best arm with a probability of at most

        3 log2 K exp(-n / (8 H log2 K)),   H = max over i >= 2 of i / gap_i^2,

    with gap_i the distance of the i-th best arm's mean from the best one's (theorem 4.1): the regret after n pulls is 0
    but for that. Rewards may fall over time for all arms alike: the order of a phase is reversed from pass to pass, so
    that a linear trend adds as much to every arm's mean where q is even. Of equal arms the first stays.

        bandit = SequentialHalving.over(3, budget=12)
        bandit = bandit.observe(reward_of(bandit.arm))    # a frozen value: the next state
        bandit.exploring                                  # False after bandit.pulls() of them
    """

    num_arms: int
    budget: int
    #: Arms that are left, in their order.
    left: tuple[int, ...]
    #: Rewards of this phase, in the order of its pulls.
    rewards: tuple[float, ...] = ()

    @classmethod
    def over(cls, num_arms: int, budget: int = 0) -> SequentialHalving:
        """Nothing is pulled yet; of a `budget` below the fewest pulls these are taken."""
        return cls(num_arms, max(budget, fewest_pulls(num_arms)), tuple(range(num_arms)))

    @property
    def exploring(self) -> bool:
        """Whether more than one arm is left."""
        return len(self.left) > 1

    @property
    def arm(self) -> int:
        """The arm to pull next."""
        return self._order()[len(self.rewards)] if self.exploring else self.left[0]

    def observe(self, reward: float) -> SequentialHalving:
        """The state after `arm` was pulled; a reward after the exploration changes nothing."""
        if not self.exploring:
            return self
        rewards, order = (*self.rewards, reward), self._order()
        if len(rewards) < len(order):
            return replace(self, rewards=rewards)
        means = {
            arm: statistics.fmean(own for pulled, own in zip(order, rewards, strict=True) if pulled == arm)
            for arm in self.left
        }
        # `sorted` is stable, so that the first of equals stays.
        best = sorted(self.left, key=lambda arm: -means[arm])[: math.ceil(len(self.left) / 2)]
        return replace(self, left=tuple(sorted(best)), rewards=())

    def pulls(self) -> int:
        """Pulls of the whole exploration, at most `budget`."""
        total, left = 0, self.num_arms
        while left > 1:
            total, left = total + left * self._quota(left), math.ceil(left / 2)
        return total

    def _quota(self, left: int) -> int:
        return max(1, self.budget // (left * halvings(self.num_arms)))

    def _order(self) -> list[int]:
        """The pulls of this phase: forwards and backwards by turns."""
        passes = (self.left[:: -1 if number % 2 else 1] for number in range(self._quota(len(self.left))))
        return [arm for one in passes for arm in one]
