"""Somebody else's GAN: every mistake is one line which names the setting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.diffusion.unet import ImageShape
from collafuse_flwr.gan.external import load_architecture
from collafuse_flwr.gan.networks import NETS, Architecture, Block
from examples.gan_network.dense import dense

SHAPE = ImageShape(1, 8, 3)


def changed(**parts: Any) -> Callable[[ImageShape], Architecture]:
    return lambda shape: replace(dense(shape), **parts)


def with_block(net: str, index: int, block: Callable[[], nn.Module]) -> Callable[[ImageShape], Architecture]:
    def factory(shape: ImageShape) -> Architecture:
        blocks = list(getattr(dense(shape), net))
        blocks[index] = Block("wrong", block)
        return replace(dense(shape), **{net: tuple(blocks)})  # type: ignore[arg-type]

    return factory


class Wrong:
    """GANs with one mistake each."""

    def __init__(self, shape: ImageShape) -> None:
        self.shape = shape

    size = staticmethod(changed(size=12))
    two = staticmethod(lambda shape: replace(dense(shape), generator=dense(shape).generator[1:]))
    a_list = staticmethod(lambda shape: replace(dense(shape), generator=[]))  # type: ignore[arg-type]
    modules = staticmethod(changed(discriminator=(nn.Identity(),) * 3))
    unlabelled = staticmethod(with_block("generator", 0, lambda: nn.Linear(100, 64)))
    too_wide = staticmethod(with_block("discriminator", 1, lambda: nn.Linear(32, 64)))
    flat = staticmethod(with_block("generator", 2, lambda: nn.Linear(64, 64)))
    two_logits = staticmethod(with_block("discriminator", 2, lambda: nn.Linear(64, 2)))


def test_a_good_one_runs_block_by_block() -> None:
    architecture = load_architecture("examples.gan_network.dense:dense", SHAPE)
    assert [len(architecture.shapes(net)) for net in NETS] == [3, 3]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SHAPE", "the factory must be callable, not ImageShape"),
        ("Wrong", "the factory must return a collafuse_flwr.gan.networks.Architecture, not Wrong"),
        ("Wrong.size", "must be of (channels, size, num_classes) = (1, 8, 3), not (1, 12, 3)"),
        ("Wrong.two", "its generator must have 3 blocks or more, to be split, not 2"),
        ("Wrong.a_list", "its generator must be a tuple of blocks"),
        ("Wrong.modules", "its discriminator must be a tuple of blocks"),
        ("Wrong.unlabelled", "its generator must run block by block on codes (n, 100) and labels (n,) ("),
        ("Wrong.too_wide", "its discriminator must run block by block on images (n, 1, 8, 8) and labels (n,) ("),
        ("Wrong.flat", "its generator must end in shape (1, 8, 8) for each image, not (64,)"),
        ("Wrong.two_logits", "its discriminator must end in shape (1,) for each image, not (2,)"),
    ],
)
def test_a_mistake_is_one_line(name: str, message: str) -> None:
    path = f"tests.unit.gan.test_external:{name}"
    with pytest.raises(SettingError) as caught:
        load_architecture(path, SHAPE)
    assert (caught.value.name, caught.value.value) == ("model", path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
