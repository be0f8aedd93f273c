"""Public images: clean ones of the clients' kind that the server may train on, since anybody has them."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from torch import Tensor

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.data.codec import open_codec
from collafuse_flwr.data.conditioning import conditioning_labels
from collafuse_flwr.data.datasets import load_images
from collafuse_flwr.data.images import ImageSet
from collafuse_flwr.data.latents import as_latents
from collafuse_flwr.data.settings import NO_DATASET, DataConfig, PublicConfig


def load_public_images(
    config: PublicConfig, data: DataConfig, shape: tuple[int, int, int, int], private: ImageSet | None, seed: int
) -> ImageSet | None:
    """Load `public.dataset`: at most `public.max_images` of them, drawn by `seed`, read as the clients' images are.

    Args:
        config: which they are.
        data: how images are read, and what networks are conditioned on.
        shape: channels and side of the clients' images, and their numbers of classes and attributes.
        private: all images of a simulation's clients; what is equal to one of them is not public, and left out.
        seed: that of the run.

    Returns:
        The images, (n, channels, size, size); None if there are to be none.

    Raises:
        DataError: the data are missing or damaged.
        SettingError: none are left, or they have other channels, classes or attributes than the clients' images.
    """
    if config.dataset == NO_DATASET:
        return None
    paths = (config.dataset_path,) if config.dataset_path else ()
    size = data.image_size if data.codec else shape[1]
    own = replace(data, dataset=(config.dataset,), dataset_path=paths, image_size=size, max_images=0)
    images = as_latents(load_images(own, seed), open_codec(data.codec), own)
    public_shape = _shape(images, data)
    if public_shape != shape:
        words = "{} channels, {} pixels a side, {} classes and {} attributes"
        raise _refused(
            config, f"images with {words.format(*shape)}, as the clients'; these have {words.format(*public_shape)}"
        )
    if private is not None and data.conditioning == "classes" and images.class_names != private.class_names:
        raise _refused(
            config, f"the clients' classes, {', '.join(private.class_names)}; not {', '.join(images.class_names)}"
        )
    kept = _public_rows(images.pixels, private)
    if config.max_images:
        kept = (
            kept[torch.randperm(len(kept), generator=named_generator(seed, "public"))[: config.max_images]]
            .sort()
            .values
        )
    if not len(kept):
        raise _refused(config, "a set with images that are not the clients' own")
    return images.subset(kept)


def _shape(images: ImageSet, data: DataConfig) -> tuple[int, int, int, int]:
    """As clients say it of their images when they introduce themselves."""
    attributes = conditioning_labels(data.conditioning, images) if data.conditioning == "attributes" else None
    width = 0 if attributes is None else attributes.shape[1]
    return images.images.shape[1], images.images.shape[2], images.num_classes, width


def _public_rows(images: Tensor, private: ImageSet | None) -> Tensor:
    """The rows of images that are equal to no private one, shape (n,), int64."""
    held = set() if private is None else {_digest(image) for image in private.pixels}
    return torch.tensor([row for row, image in enumerate(images) if _digest(image) not in held], dtype=torch.int64)


def _digest(image: Tensor) -> bytes:
    return hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest()


def _refused(config: PublicConfig, allowed: str) -> SettingError:
    return SettingError("public.dataset", config.dataset, allowed)
