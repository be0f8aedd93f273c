"""How the image updates of a run are dealt out between server and clients."""

from __future__ import annotations

from collafuse_flwr.config import Config

#: Share of the rounds that the backbone trains alone before clients start from it: its weights must be worth taking.
BACKBONE_HEAD_START = 0.7


def init_round(config: Config, num_rounds: int) -> int:
    """The first round in which clients train: 1, or later when they start from the backbone's weights."""
    if config.split.client_init == "random":
        return 1
    return config.split.client_init_round or int(BACKBONE_HEAD_START * num_rounds) + 1


def takes_backbone(config: Config, cut: int) -> bool:
    """Whether a client with this cut starts from the backbone: not if it has no denoiser, nor if it does everything."""
    return config.split.client_init == "backbone" and 0 < cut < config.model.timesteps


def updates_per_round(config: Config, num_images: int, share: float) -> float:
    """Image updates of one side in a round: `local_epochs` passes, times its share of the chain if proportional.

    A DDPM with t uniform on 1..T spends the share c = k / T of its image updates on t <= k (arXiv 2402.19105).
    """
    full = config.train.local_epochs * num_images
    if share == 0 or config.split.effort == "full":
        return full if share else 0.0
    return share * full
