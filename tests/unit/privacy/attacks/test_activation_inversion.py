"""What a split discriminator uploads is the images themselves: a regression test of a leak, and of what slows it."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.data.datasets import load_images
from collafuse_flwr.data.images import normalize
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.gan.networks import Blocks, build_architecture
from collafuse_flwr.privacy.attacks.activation_inversion import InvertedBatch, SolvableStem, invert_activations
from collafuse_flwr.privacy.attacks.activation_inversion_search import search_activation_inversion

REAL_DATA = Path(__file__).parents[4] / ".." / "shared" / "data"
Record = Callable[[str, object], None]


def digits(count: int = 8, size: int = 28) -> tuple[Tensor, Tensor]:
    """Grey digits on black in [-1, 1], and their labels."""
    from sklearn.datasets import load_digits  # noqa: PLC0415

    pixels, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(pixels[:count]).float().view(-1, 1, 8, 8) / 8 - 1
    margin = size // 7
    inner = interpolate(small, size - 2 * margin, mode="bilinear")
    return pad(inner, (margin,) * 4, value=-1), torch.from_numpy(labels[:count]).long()


def coloured(count: int = 8, size: int = 16) -> tuple[Tensor, Tensor]:
    made = torch.randn((count, 3, 4, 4), generator=named_generator("coloured"))
    return interpolate(made, size, mode="bicubic").clamp(-1, 1), torch.arange(count) % 10


def head(like: Tensor, extra: int = 0, width: int = 64) -> Blocks:
    """The first blocks of a discriminator that has moved a little from its start."""
    built = build_architecture(like.shape[1], like.shape[-1], 10, width).build("discriminator", range(1 + extra), (0,))
    generator = named_generator("moved")
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    return built.train()


def stem_of(own: Blocks) -> SolvableStem:
    return SolvableStem.of(own[0].state_dict())


def uploaded(own: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return own(images, labels)  # type: ignore[no-any-return]


def psnr(inverted: InvertedBatch, images: Tensor) -> float:
    return 10 * math.log10(4 / (inverted.images - images).double().square().mean().item())


@pytest.mark.parametrize(("make", "width"), [(digits, 64), (digits, 32), (coloured, 64)])
def test_images_and_labels_come_back_exactly(
    make: Callable[[], tuple[Tensor, Tensor]], width: int, record_property: Record
) -> None:
    images, labels = make()
    own = head(images, width=width)
    sent = uploaded(own, images, labels)
    inverted = invert_activations(stem_of(own), sent)
    assert torch.equal(inverted.labels, labels)
    assert psnr(inverted, images) > 100
    record_property("float32, dB", round(psnr(inverted, images)))
    halved = invert_activations(stem_of(own), sent.bfloat16())
    assert torch.equal(halved.labels, labels)
    assert psnr(halved, images) > 40
    record_property("bfloat16, dB", round(psnr(halved, images)))


def test_one_image_is_enough_and_filters_may_be_scaled_by_less_than_0() -> None:
    images, labels = digits(1)
    own = head(images)
    with torch.no_grad():
        own.get_parameter("blocks.0.down.1.weight")[::2] *= -1
    inverted = invert_activations(stem_of(own), uploaded(own, images, labels))
    assert torch.equal(inverted.labels, labels)
    assert psnr(inverted, images) > 100


def test_the_weights_of_the_last_average_do_for_many_steps_after_it(record_property: Record) -> None:
    """A step of Adam moves each weight by about its rate."""
    images, labels = digits()
    own = head(images)
    stem, generator = stem_of(own), named_generator("steps")
    own = deepcopy(own)
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).sign(), alpha=10 * 2e-4)
    inverted = invert_activations(stem, uploaded(own, images, labels))
    assert torch.equal(inverted.labels, labels)
    assert 40 < psnr(inverted, images) < 100
    record_property("10 steps, dB", round(psnr(inverted, images)))


def test_noise_on_the_activations_blurs_images_before_labels(record_property: Record) -> None:
    images, labels = digits()
    own = head(images)
    sent, noise = uploaded(own, images, labels), torch.randn((8, 64, 14, 14), generator=named_generator("noise"))
    reached = []
    for std in (0.01, 0.1, 1.0):
        inverted = invert_activations(stem_of(own), sent + std * noise)
        assert torch.equal(inverted.labels, labels)
        reached.append(round(psnr(inverted, images), 1))
        record_property(f"noise {std}, dB", reached[-1])
    assert reached == sorted(reached, reverse=True)
    assert reached[0] > 40
    assert 20 < reached[1] < 35
    assert reached[2] < 15


def test_the_generated_image_reaches_the_server_twice() -> None:
    """The server made what the generator's last block gets, and averages that block; and it inverts D's upload."""
    _, labels = digits(4)
    tail = build_architecture(1, 28, 10).build("generator", range(4, 5), (0,))
    sent_down = torch.randn((4, 64, 28, 28), generator=named_generator("generated")).relu()
    with torch.no_grad():
        fake = tail(sent_down)
    own = head(fake)
    inverted = invert_activations(stem_of(own), uploaded(own, fake, labels))
    assert torch.equal(inverted.labels, labels)
    assert psnr(inverted, fake) > 100


def test_where_there_is_no_closed_form_it_says_so() -> None:
    images, labels = digits(2)
    deeper = head(images, extra=1)
    with pytest.raises(ValueError, match=r"shape \(128, 7, 7\) are not .* \(64, 14, 14\): where .* no closed form"):
        invert_activations(stem_of(deeper), uploaded(deeper, images, labels))
    narrow = head(images, width=16)
    with pytest.raises(ValueError, match=r"the kernel has rank 16 .* needs a rank of 32"):
        invert_activations(stem_of(narrow), uploaded(narrow, images, labels))
    dead = head(images)
    stem = replace(stem_of(dead), scale=torch.zeros(64, dtype=torch.float64))
    with pytest.raises(ValueError, match="64 filters are scaled by 0"):
        invert_activations(stem, uploaded(dead, images, labels))


@pytest.mark.parametrize("extra", [0, 1])
def test_more_blocks_on_the_client_do_not_hide_the_image(extra: int, record_property: Record) -> None:
    images, labels = digits(4, size=16)
    own = head(images, extra=extra)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    inverted = search_activation_inversion(own, uploaded(own, images, labels), 1, 60)
    assert torch.equal(inverted.labels, labels)
    assert psnr(inverted, images) > 40
    record_property(f"{extra} extra blocks, dB", round(psnr(inverted, images)))
    changed = [name for name, value in own.state_dict().items() if not torch.equal(value, before[name])]
    assert all("running" in name or "tracked" in name for name in changed)


def test_real_images_come_back_exactly(record_property: Record) -> None:
    if not (REAL_DATA / "MNIST" / "raw").is_dir():
        pytest.skip(f"THE REAL MNIST IMAGES ARE NOT TESTED: there is no {REAL_DATA / 'MNIST' / 'raw'}")
    data = load_images(DataConfig(dataset=("mnist",), dataset_path=(str(REAL_DATA),)), seed=0)
    images, labels = normalize(data.images[:16]), data.labels[:16]
    own = head(images)
    inverted = invert_activations(stem_of(own), uploaded(own, images, labels))
    assert torch.equal(inverted.labels, labels)
    assert psnr(inverted, images) > 100
    record_property("float32, dB", round(psnr(inverted, images)))
