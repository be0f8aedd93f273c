"""Parts of a U-Net by name: which of them the clients of each strategy share, and which a client trains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from collafuse_flwr.core.errors import SettingError

#: How the names of diffusers' U-Nets begin in each part; the embeddings of t and of the label are input.
PARTS = {
    "encoder": ("conv_in.", "time_embedding.", "class_embedding.", "down_blocks."),
    "bottleneck": ("mid_block.",),
    "decoder": ("up_blocks.", "conv_norm_out.", "conv_out."),
}


def uploaded_part(parts: Sequence[str], client: int, round_: int) -> str:
    """The part that a client uploads after a round: USplit's halves alternate over clients and rounds.

    The schemes are those of FedDiffuse (de Goede, Cox, Decouchant, arXiv 2406.12575). Its abstract and names say which
    parts are shared; that the embeddings belong to the encoder, and who uploads which half when, is our reading.
    """
    return parts[(client + round_) % len(parts)]


def shared_names(parts: Sequence[str], names: Iterable[str]) -> list[str]:
    """The names in a state dict that belong to the shared parts; none where the network has no such parts."""
    every = list(names)
    shared = {name for part in parts for name in part_names(every, part)}
    return [name for name in every if name in shared]


def part_names(names: Iterable[str], part: str) -> list[str]:
    """The names in a state dict that belong to a part: `all`, `none`, or parts of PARTS joined by `+`."""
    if part in ("all", "none"):
        return list(names) if part == "all" else []
    beginnings = tuple(beginning for one in part.split("+") for beginning in PARTS[one])
    return [name for name in names if name.startswith(beginnings)]


def freeze_other_parts(network: nn.Module, parts: str) -> nn.Module:
    """A network whose parameters outside of `parts` (see `part_names`) take no gradient, but the label's embedding.

    Raises:
        SettingError: it has no such parts.
    """
    names = [name for name, _ in network.named_parameters()]
    trained = part_names(names, parts)
    if not trained:
        raise SettingError("client.trained_parts", parts, "all for a network without the parts of diffusers' U-Nets")
    for name, parameter in network.named_parameters():
        # Classes of another set than the start's are learnt anew, whatever else is kept.
        parameter.requires_grad_(name in trained or name.startswith("class_embedding."))
    return network
