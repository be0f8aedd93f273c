"""Several networks of one shape as one: each layer is called once for all, with weights of its own for each.

Of a batch for `count` networks row b count + k is the b-th of network k, and a layer's weights have one dimension more,
(count, ...). Without a copy such a batch is also one of `count` times the channels, where convolutions and
normalisation go by groups. Whatever has no weights treats rows apart, and is called as it is. `torch.func.vmap` would
do for any network, but moves the networks' dimension between layers: a fifth of the time of small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class Folded(TorchFunctionMode):
    """Meanwhile layers take batches and weights of `count` networks, as described above."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function, or what it is for several networks."""
        rule = _RULES.get(func)
        return func(*args, **kwargs or {}) if rule is None else rule(self.count, *args, **kwargs or {})


def can_fold(network: nn.Module) -> bool:
    """Whether a network is a U-Net of diffusers, whose rows are sure to stay apart, with weights in supported layers.

    All of these must be trained, and none shared; nor may a call move a buffer, or draw.
    """
    from diffusers import UNet2DConditionModel, UNet2DModel  # noqa: PLC0415 (slow)

    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    is_unet = type(network) in (UNet2DConditionModel, UNet2DModel)
    return is_unet and network.state_dict().keys() == trained and all(map(_is_supported, network.modules()))


def _is_supported(part: nn.Module) -> bool:
    if isinstance(part, nn.Conv2d):
        return type(part) is nn.Conv2d and part.groups == 1 and part.padding_mode == "zeros" and part.bias is not None
    if isinstance(part, nn.GroupNorm):
        return part.affine
    if isinstance(part, nn.Embedding):
        return part.padding_idx is None and part.max_norm is None
    if isinstance(part, nn.Dropout):
        return part.p == 0
    return type(part) is nn.Linear or not list(part.parameters(recurse=False))


def _conv2d(
    count: int, x: Tensor, weight: Tensor, bias: Tensor, stride: Any, padding: Any, dilation: Any, _: int
) -> Tensor:
    if weight.shape[-2:] == (1, 1):
        # In groups torch would make these one after another.
        values = _apart(count, x).permute(1, 2, 0, 3, 4)
        product = torch.baddbmm(bias.unsqueeze(-1), weight.flatten(2), values.flatten(2))
        return product.view(count, -1, *values.shape[2:]).permute(2, 0, 1, 3, 4).flatten(0, 1)
    wide = _apart(count, x).flatten(1, 2)
    wide = functional.conv2d(wide, weight.flatten(0, 1), bias.flatten(), stride, padding, dilation, groups=count)
    return wide.view(len(x), -1, *wide.shape[2:])


def _group_norm(count: int, x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    wide = _apart(count, x).flatten(1, 2)
    return functional.group_norm(wide, count * num_groups, weight.flatten(), bias.flatten(), eps).view(x.shape)


def _linear(count: int, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    values, transposed = _apart(count, x).transpose(0, 1), weight.transpose(1, 2)
    rows = values.flatten(1, -2)
    product = rows @ transposed if bias is None else torch.baddbmm(bias.unsqueeze(1), rows, transposed)
    return product.view(*values.shape[:-1], -1).transpose(0, 1).flatten(0, 1)


def _embedding(count: int, rows: Tensor, weight: Tensor, **_: object) -> Tensor:
    return weight[torch.arange(count, device=rows.device), _apart(count, rows)].flatten(0, 1)


def _apart(count: int, x: Tensor) -> Tensor:
    """A batch with a dimension for the networks: (batch, count, ...)."""
    return x.reshape(-1, count, *x.shape[1:])


_RULES: dict[Callable[..., Any], Callable[..., Tensor]] = {
    functional.conv2d: _conv2d,
    functional.group_norm: _group_norm,
    functional.linear: _linear,
    functional.embedding: _embedding,
}
