"""Collaborative generative training on Flower: split diffusion over clients that keep their images."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("collafuse-flwr")
except PackageNotFoundError:  # run from a Flower app bundle, which is not installed
    __version__ = "unknown"
