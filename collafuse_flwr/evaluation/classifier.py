"""A small image classifier, trained on the spot: the feature network of the distances, and the probe of TSTR."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from collafuse_flwr.evaluation.features import extract_features, scaled


class ImageClassifier(nn.Module):
    """Logits = head(features(x)): three convolutions, and one more for each halving of the image to 8..15 pixels.

    `features` is a module of its own, so it is also what the distances take as their feature network.

        net = ImageClassifier(channels=1, num_classes=10, image_size=28)
        net(images)             # (N,1,28,28) -> (N,10) logits
        net.features(images)    # (N,1,28,28) -> (N,64), non-negative
    """

    num_features = 64

    def __init__(self, channels: int, num_classes: int, image_size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(channels, 32)]
        for _ in range(max(0, int(math.log2(image_size / 8)))):
            layers += [nn.MaxPool2d(2), _convolution(32, 32)]
        layers += [_convolution(32, 64), nn.MaxPool2d(2), _convolution(64, 64), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
        self.features = nn.Sequential(*layers, nn.Linear(4 * 64, self.num_features), nn.ReLU())
        self.head = nn.Linear(self.num_features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N,C,H,W) in [-1,1]."""
        logits: Tensor = self.head(self.features(images))
        return logits


def _convolution(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.ReLU())


def train_classifier(
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    seed: int,
    *,
    rows: Tensor | None = None,
    steps: int | None = None,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
) -> ImageClassifier:
    """Fit by cross-entropy with AdamW and a one-cycle learning rate (Smith and Topin 2017, arXiv 1708.07120).

    The weights depend on the arguments alone: on a CPU the same seed and number of threads give the same bits, and the
    global random state is neither read nor moved.

    Args:
        images: (N,C,H,W) in [-1,1], or uint8, square, 8..128 pixels wide.
        labels: (N,) int64 in [0, num_classes).
        num_classes: classes of the head; some may be absent from `labels`.
        rows: (n,) int64, those of the images that are learnt from; all of them by default.
        seed: of the first weights and of the order of the batches.
        steps: optimiser steps; by default `default_steps`.
        batch_size: images per step, at most N, or n.
        device: where to train; the result stays there.

    Returns:
        The classifier, in evaluation mode and frozen.

    Raises:
        ValueError: `images` or `labels` do not have the form above.

    """
    _check_labelled(images, labels, num_classes)
    rows = torch.arange(len(images)) if rows is None else rows
    count, (_, channels, _, width) = len(rows), images.shape
    batch_size = min(batch_size, count)
    if steps is None:
        steps = default_steps(count, batch_size)
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):  # no weights yet: their default values would be drawn from the global state
        net = ImageClassifier(channels, num_classes, width)
    net = _draw_weights(net.to_empty(device="cpu"), generator).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps + 1)
    passes = math.ceil(steps * batch_size / count)
    order = torch.cat([torch.randperm(count, generator=generator) for _ in range(passes)])
    for batch in torch.split(order[: steps * batch_size], batch_size):
        index = rows[batch].to(images.device)
        loss = F.cross_entropy(net(scaled(images[index]).to(device)), labels[index].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval().requires_grad_(False)


def default_steps(count: int, batch_size: int) -> int:
    """Optimiser steps of a classifier of so many images: 25 passes, but at least 150 and at most 900 steps."""
    return min(900, max(150, 25 * math.ceil(count / batch_size)))


def accuracy(classifier: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 512) -> float:
    """Return the share of images (N,C,H,W) whose largest logit is at their label (N,); in [0,1]."""
    predicted = extract_features(images, classifier, batch_size).argmax(dim=1)
    return (predicted == labels.to(predicted.device)).double().mean().item()


def _draw_weights(net: ImageClassifier, generator: torch.Generator) -> ImageClassifier:
    """Weights of variance 2 / fan_in, which keeps the signal's scale, biases 0 (He et al. 2015, arXiv 1502.01852)."""
    for parameter in net.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
        else:
            nn.init.zeros_(parameter)
    return net


def _check_labelled(images: Tensor, labels: Tensor, num_classes: int) -> None:
    if images.ndim != 4 or len(images) == 0 or images.shape[2] != images.shape[3] or images.shape[3] < 8:
        raise ValueError(f"`images` has shape {tuple(images.shape)}, expected (N,C,H,H) with N >= 1 and H >= 8")
    if images.is_floating_point() and not torch.isfinite(images).all():
        raise ValueError("`images` has values that are not finite")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"`labels` has shape {tuple(labels.shape)}, expected one label for each of `images`")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"`labels` has a value outside 0..{num_classes - 1}")
