"""What happened in each round, and the checkpoint that a run resumes from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from collafuse_flwr.core.atomic_io import read_json_lines, write_json_lines
from collafuse_flwr.core.errors import UserError
from collafuse_flwr.core.tensor_io import newest_undamaged, write_tensors
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.wire.common import ClientInfo


@dataclass
class RoundRecord:
    """One line of metrics.jsonl; clients are named by their partition id, `values` are those of one image.

    `uploads` names the clients whose upload arrived, whether or not it was accepted; `seconds` is how long the round
    took, with its evaluation.
    """

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
    uploads: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, direction: dict[str, int], client: int, size: int) -> None:
        """Add bytes that went to or came from a client."""
        direction[str(client)] = direction.get(str(client), 0) + size


@dataclass(frozen=True)
class Checkpoint:
    """What a strategy keeps beside the rounds: tensors by part and name, and plain values that JSON can hold.

    A part without tensors is not there any more when it is loaded; nor may the name of one hold a slash.
    """

    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)


@dataclass
class History:
    """The rounds so far and the clients that were in them; kept in the run's folder."""

    folder: Path
    rounds: list[RoundRecord] = field(default_factory=list)
    client_infos: dict[int, ClientInfo] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The checkpoint."""
        return RunLayout(self.folder).checkpoint

    def save(self, checkpoint: Checkpoint) -> None:
        """Write everything that a run goes on from in one piece, then the metrics that people read.

        The checkpoint before stays, should this one be damaged.
        """
        memory = {
            "rounds": [asdict(row) for row in self.rounds],
            "client_infos": [asdict(client_info) for client_info in self.client_infos.values()],
            "state": checkpoint.state,
        }
        tensors = {f"{part}/{name}": x.cpu() for part, own in checkpoint.tensors.items() for name, x in own.items()}
        write_tensors(self.path, tensors, {"memory": json.dumps(memory)}, keep=RunLayout(self.folder).last_checkpoint)
        self.write_metrics()

    def load(self, device: torch.device | str = "cpu") -> Checkpoint | None:
        """Take up the rounds and clients; the strategy's part, on a device, or None if there is no checkpoint.

        Raises:
            DamagedError: it is damaged, and there is none before it.
        """
        layout = RunLayout(self.folder)
        paths = [path for path in (layout.checkpoint, layout.last_checkpoint) if path.exists()]
        if not paths:
            return None
        loaded, metadata = newest_undamaged(paths)
        memory = json.loads(metadata["memory"])
        self.rounds = [RoundRecord(**row) for row in memory["rounds"]]
        self.client_infos = {own["partition_id"]: ClientInfo(**own) for own in memory["client_infos"]}
        tensors: dict[str, dict[str, Tensor]] = {}
        for path, value in loaded.items():
            part, _, name = path.partition("/")
            tensors.setdefault(part, {})[name] = value.to(device)
        return Checkpoint(tensors, memory["state"])

    def write_metrics(self) -> None:
        """metrics.jsonl: one line a round."""
        write_json_lines(RunLayout(self.folder).metrics, [asdict(row) for row in self.rounds])


def read_rounds(folder: Path) -> list[RoundRecord]:
    """The rounds that a run has closed so far; none before the first.

    Raises:
        UserError: metrics.jsonl is damaged.
    """
    path = RunLayout(folder).metrics
    try:
        return [RoundRecord(**row) for row in read_json_lines(path)]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
