"""What GANs need of their settings."""

from __future__ import annotations

from collafuse_flwr.config.config import Config
from collafuse_flwr.config.devices import parse_slowdowns
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.fields import plain

#: Blocks of generator and of discriminator beside those of equal resolution, of which there are `gan.depth`.
OTHER_BLOCKS = 4
#: The digits of a client's cuts: extra blocks in the heads and tails of G and D.
DIGITS = 4
MAX_DIGIT = 9


def server_block_index(count: int) -> int:
    """Index of the block that is always the server's, in a net of `count` blocks."""
    return count // 2


def max_extra_blocks(count: int) -> tuple[int, int]:
    """The most extra blocks in head and tail of a net of `count` blocks that leave its middle one to the server."""
    return server_block_index(count) - 1, count - server_block_index(count) - 2


def check_gan(config: Config) -> None:
    """Refuse what a GAN cannot do.

    Raises:
        SettingError: it is conditioned on something else than classes, a tail of other than one linear layer is to be
            factored, cuts are not four digits for each client that leave the server its block and clients their least,
            there are more clusters, or batches of MD-GAN, than clients, a slow-down is of no client or round, or cuts
            are to be planned anew that were not planned.
    """
    gan, clients = config.split_gan, config.run.num_supernodes
    if config.data.conditioning != "classes":
        raise SettingError("data.conditioning", config.data.conditioning, "classes when `strategy` is a GAN")
    parse_slowdowns(config.devices.slowdowns, clients)
    if gan.replan_rounds and not (
        config.devices.profiles and not gan.client_cuts and config.cut_planner.algorithm == "exact"
    ):
        allowed = "0 unless cuts are planned: with `devices.profiles`, by the exact planner, without `client_cuts`"
        raise SettingError("split_gan.replan_rounds", gan.replan_rounds, allowed)
    for name in ("clustering.num_clusters", "mdgan.k"):
        if config.get(name) > clients:
            raise SettingError(name, config.get(name), f"at most `num_supernodes` = {clients}")
    external = ":" in config.diffusion.model
    if external and gan.factor_tail_gradients:
        allowed = "false when `model` is package.module:factory: its last blocks may be other than one linear layer"
        raise SettingError("split_gan.factor_tail_gradients", True, allowed)
    if gan.condition_at == "tail" and gan.factor_tail_gradients:
        allowed = "false when `split_gan.condition_at` is tail, which is more than one linear layer"
        raise SettingError("split_gan.factor_tail_gradients", True, allowed)
    # How many blocks others' networks have is seen when they are built.
    most = (MAX_DIGIT,) * DIGITS if external else max_extra_blocks(OTHER_BLOCKS + config.gan.depth) * 2
    least = _digits("split_gan.min_cut", gan.min_cut, (0,) * DIGITS, most, config.gan.depth)
    if len(gan.client_cuts) not in {0, 1, clients}:
        allowed = f"four digits, or a list of {clients} times four"
        raise SettingError("split_gan.client_cuts", plain(gan.client_cuts), allowed)
    for cuts in gan.client_cuts:
        _digits("split_gan.client_cuts", cuts, least, most, config.gan.depth)


def _digits(name: str, text: str, low: tuple[int, ...], high: tuple[int, ...], depth: int) -> tuple[int, ...]:
    """The digits of a cut, each within its bounds."""
    if len(text) != DIGITS or not text.isdecimal():
        raise SettingError(name, text, "four digits, as 0010")
    digits = tuple(map(int, text))
    if not all(a <= digit <= b for a, digit, b in zip(low, digits, high, strict=True)):
        raise SettingError(name, text, f"digits from {low} to {high} when `gan.depth` is {depth}")
    return digits
