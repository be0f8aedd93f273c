"""The messages of FedGAN and MD-GAN survive the network."""

from __future__ import annotations

import pytest
import torch

from collafuse_flwr.gan.split_gan.precision import quantize_roundtrip
from collafuse_flwr.wire.codec import decode, encode
from collafuse_flwr.wire.gan import DiscriminatorFeedbackRequest, GanWorkRequest
from tests.messages import sent


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_fake_images_arrive_in_the_wires_precision_and_labels_as_they_are(dtype: str) -> None:
    fake = {name: torch.linspace(-1, 1, 32).view(2, 1, 4, 4) for name in ("x_g", "x_d")}
    labels = {name: torch.tensor([3, 9]) for name in fake}
    request = DiscriminatorFeedbackRequest(2, 5, fake, labels, {"discriminator.0.bias": torch.ones(3)})
    arrived = decode(DiscriminatorFeedbackRequest, sent(encode(request, dtype)), dtype)
    assert (arrived.round, arrived.step) == (2, 5)
    for name, x in fake.items():
        assert torch.equal(arrived.fake[name], quantize_roundtrip(x, dtype))
        assert torch.equal(arrived.labels[name], labels[name])
    assert torch.equal(arrived.weights["discriminator.0.bias"], torch.ones(3))


def test_a_request_arrives_as_it_was() -> None:
    request = GanWorkRequest(1, 7, {"generator.0.bias": torch.ones(2)})
    arrived = decode(GanWorkRequest, sent(encode(request)))
    assert (arrived.round, arrived.count) == (1, 7)
    assert torch.equal(arrived.weights["generator.0.bias"], torch.ones(2))
    assert decode(GanWorkRequest, sent(encode(GanWorkRequest(1, 0, {})))).weights == {}
