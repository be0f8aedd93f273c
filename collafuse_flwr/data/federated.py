"""The data of a process: loaded and dealt once, shared by all clients that run in it."""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass, field, replace

import torch

from collafuse_flwr.core.errors import DataError
from collafuse_flwr.data.codec import open_codec, pinned
from collafuse_flwr.data.datasets import load_images, open_images, read_images
from collafuse_flwr.data.image_cache import cache_folder, forget_old_sets
from collafuse_flwr.data.images import ImageSet
from collafuse_flwr.data.latents import as_latents
from collafuse_flwr.data.partition.partitions import Partition, make_partitions
from collafuse_flwr.data.partition.secret_split import secret_split
from collafuse_flwr.data.report import DataReport
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.data.validation import data_error

#: Data sets kept at a time: the one of this run, and the one of the run before or after it in a sweep.
KEPT = 2
#: Clients may be threads, and `lru_cache` alone would let each of them load the data.
_LOADING = threading.Lock()


@dataclass(frozen=True, eq=False)
class ClientData:
    """One client's images; it never trains on `held_out`. `report` is of all that were read with them."""

    train: ImageSet
    held_out: ImageSet
    report: DataReport = field(default_factory=DataReport)


@dataclass(frozen=True, eq=False)
class FederationData:
    """All images of a simulated federation, and the partition of each client."""

    images: ImageSet
    partitions: tuple[Partition, ...]

    def client(self, i: int) -> ClientData:
        """Copy the images of client `i`, counted from 0, with the classes of the whole federation.

        Raises:
            DataError: there is no such client.
        """
        if not 0 <= i < len(self.partitions):
            raise DataError(f"`num_supernodes` = {len(self.partitions)} has no client {i}; they count from 0")
        return _client_data(self.images, self.partitions[i])


def federation_data(config: DataConfig, num_clients: int, seed: int) -> FederationData:
    """Load and partition the images, or hand out what this process has already loaded.

    Raises:
        DataError: as `load_images` and `make_partitions`.
    """
    with _LOADING:
        # Another codec in the same folder is another data set.
        return _federation_data(config, num_clients, seed, pinned(config.codec))


def load_client_data(config: DataConfig, secret: bytes, path: str, cache_path: str, codec_path: str = "") -> ClientData:
    """Load the data of a deployed client: all images at `path` are its own, and its secret says which are held out.

    `path` replaces `dataset_path` if it is given, and `cache_path` the one in the settings: decoded images are as
    private as the images. The codec, if there is one, is that at `codec_path`, with the digest of the settings. The
    classes are those of the client's own folder or file, so clients must agree on them: the same subfolders or
    `data.class_names` for `imagefolder`, the same `classes` for `npz`.

    Raises:
        DataError: as `load_images`, or there are fewer than 3 images.
        SettingError: there is no such codec.
    """
    with _LOADING:
        return _single_client(
            replace(config, dataset_path=(path,) if path else config.dataset_path, cache_path=cache_path),
            secret,
            codec_path,
        )


@functools.lru_cache(maxsize=KEPT)
def _federation_data(config: DataConfig, num_clients: int, seed: int, _: str) -> FederationData:
    codec = open_codec(config.codec)
    images = as_latents(load_images(config, seed), codec, config)
    return FederationData(images, make_partitions(images, config, num_clients, seed))


@functools.lru_cache(maxsize=KEPT)
def _single_client(config: DataConfig, secret: bytes, codec_path: str) -> ClientData:
    codec = open_codec(config.codec, codec_path)
    source = open_images(config)
    split = secret_split(source, config, secret)
    used = torch.cat([split.train, split.held_out]).sort().values
    read = read_images(config, source, used)
    images = as_latents(read.images, codec, config)
    forget_old_sets(cache_folder(config))
    # What cannot be read leaves the order of the others as it is.
    train, held_out = (part[torch.isin(part, read.indices)] for part in (split.train, split.held_out))
    if not len(train) or not len(held_out):
        raise data_error(config, "too few of its images can be read")
    rows = Partition(torch.searchsorted(read.indices, train), torch.searchsorted(read.indices, held_out))
    return _client_data(images, rows)


def _client_data(images: ImageSet, partition: Partition) -> ClientData:
    return ClientData(images.subset(partition.train), images.subset(partition.held_out), images.report)
