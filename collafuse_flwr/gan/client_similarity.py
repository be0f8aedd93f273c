"""How alike clients are by what their generators make, and the mixtures that follow from it, for PFL-GAN.

s = similarities([one, another, third])
counts = mixture(0, s[0], sizes=[600, 600, 200], most=2000)    # of each client's images, for client 0
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from collafuse_flwr.evaluation.distances import frechet_distance
from collafuse_flwr.gan.networks import Architecture, block_name

#: Values of an image's code.
COMPONENTS = 16
#: Pixels a side, at most, of what is encoded: images are averaged down to it.
SIDE = 16


def similarities(samples: Sequence[Tensor]) -> Tensor:
    """How alike sets of images are: s_ij = exp(-d_ij^2 / v), d^2 the Frechet distance of their codes.

    Codes are the leading principal components of all sets together, a linear encoder that needs no training; v is the
    sum of their variances over all sets, so that the scale of the pixels does not matter.

    Args:
        samples: N sets of images, each (n, channels, size, size), n >= 2.

    Returns:
        (N, N) in float64, symmetric, in 0..1, and 1 on the diagonal.
    """
    small = [adaptive_avg_pool2d(x, min(SIDE, x.shape[-1])).flatten(1).double() for x in samples]
    everything = torch.cat(small)
    centred = everything - everything.mean(dim=0)
    # In ascending order of variance.
    basis = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -COMPONENTS:]
    codes = [x @ basis for x in small]
    variance = torch.cat(codes).var(dim=0).sum().item()
    result = torch.eye(len(codes), dtype=torch.float64)
    for i, j in combinations(range(len(codes)), 2):
        distance = frechet_distance(codes[i], codes[j], nn.Identity())
        # Sets without any variance are the same.
        result[i, j] = result[j, i] = torch.exp(torch.tensor(-distance / variance if distance else 0.0))
    return result


def mixture(own: int, similarity: Tensor, sizes: Sequence[float], most: int) -> list[int]:
    """Synthetic images of each client for client `own`: s_j n_j of client j, as if it gave a share s_j of its images.

    Where that is more than `most` in all, each has the same share less. Its own are real ones, and none are synthetic.

    Args:
        own: the client's place.
        similarity: s, (N,), in 0..1.
        sizes: n, the images of each client.
        most: images in all.
    """
    wanted = [0.0 if j == own else s * n for j, (s, n) in enumerate(zip(similarity.tolist(), sizes, strict=True))]
    scale = min(1.0, most / max(sum(wanted), 1.0))
    # Rounded down: no more than `most`.
    return [int(scale * count) for count in wanted]


def trained_classes(architecture: Architecture, initial: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Tensor:
    """The classes that a generator has been trained on, int64, ascending: their rows of its embedding have moved.

    Adam leaves the row of a class alone that no batch has had. A generator without an embedding of labels in its first
    block, or that has not been trained, counts as trained on all.

    Args:
        architecture: the nets.
        initial: the generator's blocks before training, by `block_name`.
        weights: the same after it.
    """
    with torch.device("meta"):
        first = architecture.generator[0].build()
    classes = architecture.num_classes
    tables = [
        block_name("generator", 0, f"{name}.weight")
        for name, part in first.named_modules()
        if isinstance(part, nn.Embedding) and part.num_embeddings == classes
    ]
    moved = torch.zeros(classes, dtype=torch.bool)
    for name in tables:
        moved |= (weights[name] != initial[name]).any(dim=1)
    return moved.nonzero().flatten() if moved.any() else torch.arange(classes)
