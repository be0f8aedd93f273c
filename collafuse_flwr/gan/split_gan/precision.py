"""Activations and gradients as they travel: in float32, or in 16 bits beside a power of two."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from collafuse_flwr.gan.split_gan.ops import Tensors
from collafuse_flwr.gan.split_gan.train_batch import Transport

#: What travels, by name: 16-bit values and the exponent of their common scale, or plain float32 and 0.
Packed = tuple[Tensor, int]

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def pack(x: Tensor, dtype: str) -> Packed:
    """x as values and exponent, x ~ values * 2^exponent; in 16 bits values are in [-2, 2), so that nothing overflows.

    Gradients are small: without the exponent most of them would be zero in float16.

    Args:
        x: float32, finite.
        dtype: float32, float16 or bfloat16.
    """
    x = x.float()
    largest = float(x.abs().max()) if dtype != "float32" and x.numel() else 0.0
    exponent = int(torch.tensor(largest).frexp().exponent) - 1 if largest else 0
    return torch.ldexp(x, torch.tensor(-exponent)).to(DTYPES[dtype]) if exponent else x.to(DTYPES[dtype]), exponent


def unpack(packed: Packed) -> Tensor:
    """What arrives, in float32."""
    values, exponent = packed
    x = values.float()
    return channels_last(torch.ldexp(x, torch.tensor(exponent)) if exponent else x)


def quantize_roundtrip(x: Tensor, dtype: str) -> Tensor:
    """What arrives when x is sent; as float32, what was computed in bfloat16 arrives as it is."""
    return channels_last(x) if dtype == "float32" else unpack(pack(x, dtype))


def channels_last(x: Tensor) -> Tensor:
    """The same values as convolutions leave them in memory, channels last: the bits of what follows depend on it."""
    if x.dim() != 4:
        return x.contiguous()
    if x.shape[1] > 1:
        return x.contiguous(memory_format=torch.channels_last)
    # Of single channels both layouts are the same, but for strides that `contiguous` would leave as they are.
    return x.clone(memory_format=torch.contiguous_format)


class QuantizingTransport:
    """A link in this process that rounds what crosses as the wire would, and counts its bytes."""

    def __init__(
        self, link: Transport, dtype: str, on_bytes: Callable[[int, int, int], None] = lambda *_: None
    ) -> None:
        """`on_bytes` is called with client, bytes down and bytes up of every round trip."""
        self.link, self.dtype, self.on_bytes = link, dtype, on_bytes

    def call(self, phase: str, payloads: Mapping[int, Tensors]) -> dict[int, Tensors]:
        """As the link's own."""
        answers = self.link.call(phase, {client: self._round(down) for client, down in payloads.items()})
        for client, up in answers.items():
            self.on_bytes(client, self._bytes(payloads[client]), self._bytes(up))
        return {client: self._round(up) for client, up in answers.items()}

    def _round(self, tensors: Tensors) -> Tensors:
        return {name: quantize_roundtrip(x, self.dtype) for name, x in tensors.items()}

    def _bytes(self, tensors: Tensors) -> int:
        return sum(x.numel() * DTYPES[self.dtype].itemsize for x in tensors.values())
