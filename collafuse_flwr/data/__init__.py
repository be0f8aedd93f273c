"""Data sets by name, partitions of them among clients, and the per-process cache of both."""

from collafuse_flwr.data.cache import ClientData, FederationData, federation_data, single_client
from collafuse_flwr.data.condition import labels_of, num_attributes
from collafuse_flwr.data.datasets import load_images
from collafuse_flwr.data.images import Facts, ImageSet, ImageSource, evenly, to_model_space, to_uint8
from collafuse_flwr.data.partition import Partition, make_partitions

__all__ = [
    "ClientData",
    "Facts",
    "FederationData",
    "ImageSet",
    "ImageSource",
    "Partition",
    "evenly",
    "federation_data",
    "labels_of",
    "load_images",
    "make_partitions",
    "num_attributes",
    "single_client",
    "to_model_space",
    "to_uint8",
]
