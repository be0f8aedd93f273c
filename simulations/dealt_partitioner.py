"""How a run deals its images, as a partitioner of Flower Datasets: its plots and metrics take it as any other."""

from __future__ import annotations

import torch
from datasets import ClassLabel, Dataset, Features, Value
from flwr_datasets.partitioner import Partitioner

from collafuse_flwr.data.federated import FederationData


class DealtPartitioner(Partitioner):  # type: ignore[misc] # Flower Datasets has no types
    """The clients of a federation as partitions.

    A row is an image: `label`, its class, and `index`, its place among all images that are used. Those that a client
    holds out are with those that it trains on.
    """

    def __init__(self, data: FederationData) -> None:
        super().__init__()
        images = data.images
        features = Features({"index": Value("int64"), "label": ClassLabel(names=list(images.class_names))})
        columns = {"index": list(range(len(images.labels))), "label": images.labels.tolist()}
        self.dataset = Dataset.from_dict(columns, features=features)
        self._rows = [torch.cat([own.train, own.held_out]).sort().values for own in data.partitions]

    def load_partition(self, partition_id: int) -> Dataset:
        """The images of a client, counted from 0."""
        return self.dataset.select(self._rows[partition_id].tolist())

    @property
    def num_partitions(self) -> int:
        """How many clients there are."""
        return len(self._rows)
