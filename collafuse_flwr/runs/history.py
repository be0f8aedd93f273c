"""What happened in each round, and the checkpoint that a run resumes from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from collafuse_flwr.core.atomic_io import write_json_lines, write_tensors
from collafuse_flwr.wire.collafuse import ClientInfo


@dataclass
class RoundRecord:
    """One line of metrics.jsonl; clients are named by their partition id, `values` are those of one image."""

    round: int
    values: int = 0
    cuts: dict[str, int] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    server: dict[str, Any] = field(default_factory=dict)
    clients: dict[str, dict[str, Any]] = field(default_factory=dict)
    bytes_up: dict[str, int] = field(default_factory=dict)
    bytes_down: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    evaluation: dict[str, dict[str, Any]] = field(default_factory=dict)

    def count(self, direction: dict[str, int], client: int, size: int) -> None:
        """Add bytes that went to or came from a client."""
        direction[str(client)] = direction.get(str(client), 0) + size


@dataclass
class History:
    """The rounds so far and what else the server must remember; kept in the run's folder."""

    folder: Path
    rounds: list[RoundRecord] = field(default_factory=list)
    initialised: set[int] = field(default_factory=set)
    deferred_updates: float = 0.0
    client_infos: dict[int, ClientInfo] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The checkpoint."""
        return self.folder / "server" / "state.safetensors"

    def save(self, tensors: dict[str, Tensor], pool: str) -> None:
        """Write the checkpoint in one piece, then the metrics that people read."""
        memory = {
            "rounds": [asdict(row) for row in self.rounds],
            "initialised": sorted(self.initialised),
            "credit": self.deferred_updates,
            "hellos": [asdict(client_info) for client_info in self.client_infos.values()],
        }
        write_tensors(self.path, tensors, {"memory": json.dumps(memory), "pool": pool})
        self.write_metrics()

    def load(self) -> tuple[dict[str, Tensor], str] | None:
        """Take up the checkpoint; its tensors and the pool's description, or None if there is none."""
        if not self.path.exists():
            return None
        with safe_open(str(self.path), framework="pt") as file:
            metadata = file.metadata()
        memory = json.loads(metadata["memory"])
        self.rounds = [RoundRecord(**row) for row in memory["rounds"]]
        self.initialised, self.deferred_updates = set(memory["initialised"]), memory["credit"]
        self.client_infos = {client_info["partition_id"]: ClientInfo(**client_info) for client_info in memory["hellos"]}
        return load_file(self.path), metadata["pool"]

    def write_metrics(self) -> None:
        """metrics.jsonl: one line a round."""
        write_json_lines(self.folder / "metrics.jsonl", [asdict(row) for row in self.rounds])
