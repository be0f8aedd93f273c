"""A client that moves its cut to where a round of its work is worth most; nothing leaves it for that but the cut.

In each round that trains, it pulls an arm of a bandit (`core.sequential_halving`) over the cuts that it may have. The
reward of a round at the cut k is what it gained for what it cost,

    r = g / (s / `cut.second_scale` + b / (10^6 `cut.mb_scale`)),
    g = k / T (L_k(before) - L_k(after)),

where L_k is the denoising loss of the averaged denoiser on the client's own held-out images over t = 1..k, with the
same t and noise before and after, so that g is by how much the loss of the whole chain, the mean over t = 1..T, fell
below the cut. s are seconds: of a simulation those of the client's device in `devices.profiles`, operations over its
rate, bytes over its link, and `devices.message_seconds` for request and reply, so that they follow from the seed; of a
deployment those that the training took. b are bytes: its upload, which only a cut below all earlier ones needs, and the
backbone if it came.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from collafuse_flwr.core.sequential_halving import SequentialHalving
from collafuse_flwr.privacy.settings import CutConfig


@dataclass(frozen=True)
class AdaptiveCut:
    """Where a client is in its exploration; arm 0 is the largest cut, which discloses least.

    Attributes:
        cuts: the cut steps that it may have, the largest first.
        warmup: rounds of training at the largest cut that are still to come before others are tried.
        bandit: what it has learnt.
    """

    cuts: tuple[int, ...]
    warmup: int
    bandit: SequentialHalving

    @classmethod
    def of(cls, config: CutConfig, cuts: tuple[int, ...], state: dict[str, Any] | None) -> AdaptiveCut:
        """What `state` describes of an earlier round, or the beginning if there is none for these `cuts`."""
        ordered = tuple(sorted(cuts, reverse=True))
        bandit = SequentialHalving.over(len(ordered), config.exploration_rounds)
        if state is None or state["cuts"] != list(ordered):
            return cls(ordered, config.warmup_rounds, bandit)
        return cls(
            ordered, state["warmup"], replace(bandit, left=tuple(state["left"]), rewards=tuple(state["rewards"]))
        )

    def state(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        own = {"left": list(self.bandit.left), "rewards": list(self.bandit.rewards)}
        return {"cuts": list(self.cuts), "warmup": self.warmup} | own

    @property
    def cut(self) -> int:
        """The cut step of the next round that trains."""
        return self.cuts[0] if self.warmup else self.cuts[self.bandit.arm]

    def after(self, reward: float) -> AdaptiveCut:
        """The state after a round of training at `cut`."""
        if self.warmup:
            return replace(self, warmup=self.warmup - 1)
        return replace(self, bandit=self.bandit.observe(reward))


def cost(config: CutConfig, seconds: float, num_bytes: float) -> float:
    """What a round costs a client: seconds / `cut.second_scale` + bytes / (10^6 `cut.mb_scale`)."""
    return seconds / config.second_scale + num_bytes / (1e6 * config.mb_scale)
