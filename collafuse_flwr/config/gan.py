"""What GANs need of their settings."""

from __future__ import annotations

from collafuse_flwr.config.sections import DeviceConfig, GanConfig
from collafuse_flwr.core.errors import SettingError

#: Blocks of generator and of discriminator beside those of equal resolution, of which there are `gan_depth`.
OTHER_BLOCKS = 4
#: The digits of a client's cuts, by the setting of the least that each may be.
LEAST = ("min_g_head", "min_g_tail", "min_d_head", "min_d_tail")


def server_block_index(count: int) -> int:
    """Index of the block that is always the server's, in a net of `count` blocks."""
    return count // 2


def max_extra_blocks(count: int) -> tuple[int, int]:
    """The most extra blocks in head and tail of a net of `count` blocks that leave its middle one to the server."""
    return server_block_index(count) - 1, count - server_block_index(count) - 2


def check_gan(gan: GanConfig, hardware: DeviceConfig, condition: str, num_clients: int) -> None:
    """Refuse what a GAN of `num_clients` clients cannot do.

    Raises:
        SettingError: `condition` is not classes, cuts are not four digits for each client that leave the server its
            block and clients their least, or there are more clusters, or batches of MD-GAN, than clients.
    """
    if condition != "classes":
        raise SettingError("condition", condition, "classes when `strategy` is a GAN")
    for name in ("num_clusters", "generated_batches"):
        if getattr(gan, name) > num_clients:
            raise SettingError(name, getattr(gan, name), f"at most `num_supernodes` = {num_clients}")
    most = max_extra_blocks(OTHER_BLOCKS + gan.gan_depth) * 2
    least = (hardware.min_g_head, hardware.min_g_tail, gan.min_d_head, hardware.min_d_tail)
    for name, asked, limit in zip(LEAST, least, most, strict=True):
        if asked > limit:
            raise SettingError(name, asked, f"at most {limit} when `gan_depth` is {gan.gan_depth}")
    parts = [part.strip() for part in gan.client_cuts.split(",")] if gan.client_cuts else []
    if not all(len(part) == len(LEAST) and part.isdecimal() for part in parts):
        raise SettingError("client_cuts", gan.client_cuts, "four digits, as 0010, or those of each client with commas")
    if len(parts) not in {0, 1, num_clients}:
        raise SettingError("client_cuts", gan.client_cuts, f"four digits, or {num_clients} times four with commas")
    for part in parts:
        if not all(low <= int(digit) <= high for low, digit, high in zip(least, part, most, strict=True)):
            bounds = f"digits from {least} to {most} when `gan_depth` is {gan.gan_depth}, in every client's cuts"
            raise SettingError("client_cuts", gan.client_cuts, bounds)
