"""Collaborative generative training on Flower: split diffusion over clients that keep their images."""

__version__ = "0.1.0"
