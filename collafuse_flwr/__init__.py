"""Collaborative generative training on Flower: split diffusion over clients that keep their images."""
