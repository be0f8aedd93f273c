"""Networks of a GAN that others bring: `model=package.module:factory` with a strategy that is a GAN.

The factory takes an `ImageShape` and returns an `Architecture`: generator and discriminator as tuples of blocks, which
every GAN here builds and averages block by block, and the split GAN cuts between any two. `examples/gan_network` is a
complete one.
"""

from __future__ import annotations

from functools import cache

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.plugins import call_factory
from collafuse_flwr.diffusion.unet import ImageShape
from collafuse_flwr.gan.networks import LATENT, NETS, Architecture, Block

#: A client's first block, the server's, and a client's last.
MIN_BLOCKS = 3


@cache
def load_architecture(path: str, shape: ImageShape) -> Architecture:
    """Call the factory, and run both nets block by block without memory.

    Raises:
        SettingError: it cannot be imported, or its nets are not a GAN for such images.
    """
    architecture = call_factory("model", path, shape, Architecture, "a collafuse_flwr.gan.networks.Architecture")
    if problem := _problem(architecture, shape):
        raise SettingError("model", path, problem)
    return architecture


def _problem(architecture: Architecture, shape: ImageShape) -> str:
    """What is wrong with it; empty if nothing is."""
    own = architecture.channels, architecture.size, architecture.num_classes
    wanted = shape.channels, shape.size, shape.num_classes
    if own != wanted:
        return f"its architecture must be of (channels, size, num_classes) = {wanted}, not {own}"
    image = (shape.channels, shape.size, shape.size)
    for net, takes, gives in (
        (NETS[0], f"codes (n, {LATENT}) and labels (n,)", image),
        (NETS[1], f"images {('n', *image)} and labels (n,)".replace("'", ""), (1,)),
    ):
        blocks = getattr(architecture, net)
        if not isinstance(blocks, tuple) or not all(isinstance(block, Block) for block in blocks):
            return f"its {net} must be a tuple of blocks (collafuse_flwr.gan.networks.Block)"
        if len(blocks) < MIN_BLOCKS:
            return f"its {net} must have {MIN_BLOCKS} blocks or more, to be split, not {len(blocks)}"
        try:
            end = tuple(architecture.shapes(net)[-1])
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            return f"its {net} must run block by block on {takes} ({' '.join(str(error).split())})"
        if end != gives:
            return f"its {net} must end in shape {gives} for each image, not {end}"
    return ""
