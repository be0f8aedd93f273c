"""A public start, and what clients made of it."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from collafuse_flwr.core.tensor_io import read_tensors
from collafuse_flwr.diffusion.schedule import cosine
from collafuse_flwr.diffusion.unet import ImageShape, build_network, save_network
from collafuse_flwr.runs.run_layout import RunLayout


def start_network(classes: int) -> nn.Module:
    """A nano network of 8 x 8 that knows some classes."""
    return build_network("nano", ImageShape(1, 8, classes), 7, "pretrained")


def write_start(folder: Path, classes: int) -> Path:
    """That network as diffusers reads it."""
    save_network(start_network(classes), folder, cosine(20), "v_prediction")
    return folder


def client_tensors(folder: Path, client: int) -> dict[str, Tensor]:
    """The training state that a client has after the last round."""
    states = RunLayout(folder).client(client).states()
    return read_tensors(list(states.values())[-1])[0]


def client_weights(folder: Path, client: int) -> dict[str, Tensor]:
    """The weights in it."""
    own = client_tensors(folder, client).items()
    return {name.removeprefix("network."): x for name, x in own if name.startswith("network.")}
