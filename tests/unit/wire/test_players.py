"""The messages of GANs whose nets are whole survive the network, and what does not fit is refused."""

from __future__ import annotations

import pytest
import torch

from collafuse_flwr.core.errors import UploadError
from collafuse_flwr.gan.split_gan.precision import quantize_roundtrip
from collafuse_flwr.wire.codec import decode, encode
from collafuse_flwr.wire.gan import DiscriminatorFeedbackRequest, GanWorkRequest, SyntheticWorkRequest
from collafuse_flwr.wire.validation import check_synthetic
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


def test_synthetic_images_arrive_as_they_were_or_not_at_all() -> None:
    images, labels = torch.arange(32, dtype=torch.uint8).view(2, 1, 4, 4), torch.tensor([3, 0])
    arrived = decode(SyntheticWorkRequest, sent(encode(SyntheticWorkRequest(3, 9, True, {}, images, labels))))
    assert arrived.synthetic is not None
    assert arrived.labels is not None
    assert (arrived.round, arrived.count, arrived.weights) == (3, 9, {})
    assert torch.equal(arrived.synthetic, images)
    assert torch.equal(arrived.labels, labels)
    empty = decode(SyntheticWorkRequest, sent(encode(SyntheticWorkRequest(3, 9, True, {}, None, None))))
    assert (empty.synthetic, empty.labels) == (None, None)


IMAGES, LABELS = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([3, 0])


@pytest.mark.parametrize(
    ("images", "labels", "named"),
    [
        (IMAGES.float(), LABELS, "synthetic"),
        (IMAGES[:, :, :3], LABELS, "synthetic"),
        (IMAGES.repeat(2, 1, 1, 1), LABELS.repeat(2), "synthetic"),
        (IMAGES[:0], LABELS[:0], "synthetic"),
        (IMAGES, None, "labels"),
        (IMAGES, LABELS[:1], "labels"),
        (IMAGES, LABELS.int(), "labels"),
        (IMAGES, LABELS + 1, "labels"),
        (IMAGES, LABELS - 1, "labels"),
    ],
)
def test_synthetic_images_that_do_not_fit_are_refused(
    images: torch.Tensor, labels: torch.Tensor | None, named: str
) -> None:
    check_synthetic(IMAGES, LABELS, (1, 4, 4, 0), most=3)
    with pytest.raises(UploadError, match=f"^`{named}`"):
        check_synthetic(images, labels, (1, 4, 4, 0), most=3)
