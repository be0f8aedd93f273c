"""What the generator's head tells of a batch: all labels, and the codes but for their mean."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.gan.networks import LATENT, Blocks, build_architecture
from collafuse_flwr.privacy.attacks.label_recovery import recover_labels_and_codes


def head(size: int, width: int, extra: int = 0) -> Blocks:
    """The first blocks of a generator that has moved a little from its start."""
    built = build_architecture(1, size, 10, width).build("generator", range(1 + extra), (0,))
    generator = named_generator("moved")
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    return built.train()


def a_batch(rows: int) -> tuple[Tensor, Tensor]:
    generator = named_generator("codes", rows)
    return torch.randn((rows, LATENT), generator=generator), torch.randint(0, 10, (rows,), generator=generator)


def uploaded(own: Blocks, z: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        sent: Tensor = own(z, labels)
    return sent


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten().double()]))[0, 1])


@pytest.mark.parametrize(("size", "width", "rows"), [(28, 64, 64), (28, 8, 64), (28, 8, 16), (12, 32, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_labels_and_nearly_the_codes_come_back(size: int, width: int, rows: int, dtype: torch.dtype) -> None:
    own, (z, labels) = head(size, width), a_batch(rows)
    recovered = recover_labels_and_codes(own[0].state_dict(), uploaded(own, z, labels).to(dtype))
    assert torch.equal(recovered.labels, labels)
    # Normalisation takes the mean of a batch's codes out, 1/n of their variance.
    assert correlation(recovered.z, z) > (1 - 1 / rows) ** 0.5 - 0.02
    assert correlation(recovered.z, z - z.mean(dim=0)) > correlation(recovered.z, z)


def test_of_a_batch_of_one_label_it_is_seen_that_it_is_one() -> None:
    own, (z, _) = head(28, 8), a_batch(32)
    recovered = recover_labels_and_codes(own[0].state_dict(), uploaded(own, z, torch.full((32,), 3)))
    assert len(recovered.labels.unique()) == 1
    assert correlation(recovered.z, z) > 0.9


def test_what_is_not_of_the_first_block_is_refused() -> None:
    own, (z, labels) = head(12, 4), a_batch(4)
    state, sent = own[0].state_dict(), uploaded(own, z, labels)
    with pytest.raises(ValueError, match="`activations`"):
        recover_labels_and_codes(state, sent[:1])
    with pytest.raises(ValueError, match="`activations`"):
        recover_labels_and_codes(state, sent[:, :3])
