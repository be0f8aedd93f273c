"""Networks that are conditioned on attributes, or on dropped labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from collafuse_flwr.core.runtime import Runtime
from collafuse_flwr.diffusion.parametrization import DROPPED
from collafuse_flwr.diffusion.schedule import cosine
from collafuse_flwr.diffusion.unet import PRESETS, ImageShape, as_denoise, build_network, save_network

CPU = Runtime(torch.device("cpu"), torch.float32)
TINY = ImageShape(channels=1, size=8, num_classes=3)


#: Two images of three attributes, and what a network that knows dropped ones is called with for the second dropped.
ATTRIBUTES = torch.tensor([[0, 1, 1], [1, 0, 0]], dtype=torch.uint8)
SECOND_DROPPED = torch.tensor([[0, 1, 1], [DROPPED] * 3])
ATTRIBUTED = ImageShape(1, 8, 0, num_attributes=3)
DROPS = ImageShape(1, 8, 0, num_attributes=4, null=True)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_attributes_make_a_difference_of_their_own(name: str) -> None:
    denoise = as_denoise(build_network(name, ATTRIBUTED, 0, "backbone").eval(), CPU)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([1, 100])
    with torch.no_grad():
        output, other = denoise(x, t, ATTRIBUTES), denoise(x, t, 1 - ATTRIBUTES)
        torch.testing.assert_close(denoise(x, t, ATTRIBUTES.bool()), output)
    assert output.shape == x.shape
    assert output.isfinite().all()
    assert (output != other).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("name", ["tiny", "base"])
@pytest.mark.parametrize("shape", [ATTRIBUTED, DROPS], ids=["plain", "drops"])
def test_a_saved_network_with_attributes_is_read_by_diffusers_alone(
    tmp_path: Path, name: str, shape: ImageShape
) -> None:
    network = build_network(name, shape, 0, "backbone").eval()
    save_network(network, tmp_path, cosine(50), "v_prediction")
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "unet")
    assert unet.state_dict().keys() == network.state_dict().keys(), "what stands for dropped labels is not saved"
    x, steps = torch.randn(2, 1, 8, 8), torch.tensor([0, 49])
    class_labels = ATTRIBUTES.float() if shape is ATTRIBUTED else torch.tensor([[0, 1, 1, 0], [0, 0, 0, 1.0]])
    with torch.no_grad():
        ours = as_denoise(network, CPU)(x, steps + 1, ATTRIBUTES if shape is ATTRIBUTED else SECOND_DROPPED)
        assert torch.equal(unet(x, steps, None, class_labels=class_labels).sample, ours)


@pytest.mark.parametrize(
    ("shape", "labels", "given_labels", "nothing"),
    [
        (ImageShape(1, 4, 3), torch.tensor([2, 0]), [2, 0], None),
        (ImageShape(1, 4, 4, null=True), torch.tensor([2, DROPPED]), [2, 3], [3, 3]),
        (ATTRIBUTED, ATTRIBUTES, [[0, 1, 1], [1, 0, 0]], None),
        (DROPS, SECOND_DROPPED, [[0, 1, 1, 0], [0, 0, 0, 1]], [[0, 0, 0, 1]] * 2),
        (DROPS, ATTRIBUTES, [[0, 1, 1, 0], [1, 0, 0, 0]], [[0, 0, 0, 1]] * 2),
    ],
    ids=["classes", "classes, some dropped", "attributes", "attributes, some dropped", "attributes, none dropped"],
)
def test_a_custom_network_gets_labels_or_the_one_for_nothing(
    factories: str, shape: ImageShape, labels: Tensor, given_labels: list[Any], nothing: list[Any] | None
) -> None:
    network: Any = build_network(f"{factories}:Net", shape, 0, "backbone")
    assert network.shape == shape
    seen: list[Tensor | None] = []
    network.register_forward_pre_hook(lambda _, __, given: seen.append(given["class_labels"]), with_kwargs=True)
    x, t = torch.zeros(2, 1, 4, 4), torch.tensor([1, 2])
    for given in (labels, None):
        as_denoise(network, CPU)(x, t, given)
    first, second = seen
    assert first is not None
    assert first.dtype == (torch.float32 if labels.ndim == 2 else torch.int64)
    assert first.tolist() == given_labels
    assert (second if second is None else second.tolist()) == nothing


def test_a_network_that_drops_no_labels_has_nothing_more() -> None:
    assert not list(build_network("nano", TINY, 0, "backbone").named_buffers())
