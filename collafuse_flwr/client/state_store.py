"""A client's own disk: its secret, its denoiser after each round, and its samples."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from collafuse_flwr.core.atomic_io import create_exclusively, write_json
from collafuse_flwr.core.errors import SecretError, UserError
from collafuse_flwr.core.fields import Plain
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.core.tensor_io import newest_undamaged, write_tensors
from collafuse_flwr.runs.run_layout import ClientLayout
from collafuse_flwr.wire.common import ClientInfo

#: The length of a client's secret.
SECRET_BYTES = 16
#: Rounds whose state is kept: the newest may have to be taken back when the server did not live to see it.
KEPT_ROUNDS = 2
#: Runs whose states are kept, those that trained last: enough for all that go on at once, or are resumed, and 4 GB of
#: the largest preset.
KEPT_RUNS = 8


@dataclass(frozen=True)
class ClientState:
    """What a client keeps of its past, beside its weights.

    `first_round`: the round in which it started to train (0: not yet). `deferred_updates` are image updates that it has
    put off, with what is left over of a batch. `dp_sgd`: every step that its weights have ever taken was of DP-SGD.
    `mixed`: some were on synthetic images that others' networks made.
    What has left it is in its ledger, which no state takes back. `adaptation` is how far it has tried cuts
    (`adaptive_cut`), None where its cut is settled.
    """

    round: int = 0
    first_round: int = 0
    deferred_updates: float = 0.0
    dp_sgd: bool = False
    mixed: bool = False
    adaptation: dict[str, Any] | None = None


@dataclass(frozen=True)
class TrainedClient:
    """What a client's network and samples are by; `handover_step` is where its network took over (0: a GAN's)."""

    settings: dict[str, Plain]
    client_info: ClientInfo
    handover_step: int


class ClientStore:
    """The folder of one client, and in it what one run goes on from.

    Everything is written to a temporary name and moved into place, so that a killed client finds either the old or the
    new state, never half of one.
    """

    def __init__(self, folder: Path, run: str = "") -> None:
        """Open the folder for a run (`run_layout.run_name`); without a name it is of one run alone."""
        self.layout = ClientLayout(folder, run)

    def lock(self) -> AbstractContextManager[object]:
        """What one message at a time holds: two runs at once would each find that the other has taken nothing yet."""
        self.layout.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.layout.lock)

    def secret(self, seed: int | None, client: int) -> bytes:
        """The 16 bytes that key the noise of this client's releases, made at the first call.

        With a `seed` (simulation, where one person owns all clients) they follow from it; without one they come from
        the operating system.

        Raises:
            SecretError: the file holds something else.
        """
        path = self.layout.secret
        if not path.exists():
            if seed is None:
                fresh = secrets.token_bytes(SECRET_BYTES)
            else:
                words = torch.randint(0, 256, (SECRET_BYTES,), generator=named_generator(seed, "secret", client))
                fresh = bytes(words.tolist())
            create_exclusively(path, fresh)
        kept = path.read_bytes()
        if len(kept) != SECRET_BYTES:
            # A new one would let every image leave once more, with new noise.
            raise SecretError(f"{path} holds {len(kept)} bytes, not {SECRET_BYTES}: restore it from a backup")
        return kept

    def load(self, before: int) -> tuple[ClientState, dict[str, Tensor]]:
        """The newest state from a round earlier than `before`; later ones belong to a run that was cut off, and go.

        In place of one that is damaged the one before is taken.

        Raises:
            DamagedError: there is none before it.
        """
        states = self.layout.states()
        for round_, path in states.items():
            if round_ >= before:
                path.unlink()
        earlier = [path for round_, path in states.items() if round_ < before]
        if not earlier:
            return ClientState(), {}
        tensors, metadata = newest_undamaged(reversed(earlier))
        return ClientState(**json.loads(metadata["ledger"])), tensors

    def save(self, ledger: ClientState, tensors: dict[str, Tensor]) -> None:
        """Keep the state after a round, and forget all but the newest few, of this run and of runs."""
        metadata = {"ledger": json.dumps(asdict(ledger))}
        write_tensors(self.layout.state(ledger.round), tensors, metadata)
        for old in list(self.layout.states().values())[:-KEPT_ROUNDS]:
            old.unlink()
        others = [path for path in self.layout.runs.glob("*") if path != self.layout.own_run]
        for idle in sorted(others, key=lambda path: path.stat().st_mtime_ns)[: 1 - KEPT_RUNS]:
            shutil.rmtree(idle)

    def save_trained(self, settings: Mapping[str, Plain], client_info: ClientInfo, handover_step: int = 0) -> None:
        """Keep what the network and samples of an evaluation are by: settings, client, and where its network began."""
        kept = {"settings": dict(settings), "client_info": asdict(client_info), "handover_step": handover_step}
        write_json(self.layout.trained, kept)

    def load_trained(self) -> TrainedClient:
        """What was kept by `save_trained`.

        Raises:
            UserError: nothing was, or it is damaged.
        """
        path = self.layout.trained
        if not path.is_file():
            raise UserError(f"there is no {path}: this client has not come to an evaluation of a run of this name")
        try:
            kept = json.loads(path.read_text())
            return TrainedClient(kept["settings"], ClientInfo(**kept["client_info"]), kept.get("handover_step", 0))
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is damaged: {error}") from None

    def save_samples(
        self, images: Tensor, labels: Tensor, attributes: Tensor | None = None, names: tuple[str, ...] = ()
    ) -> None:
        """Keep the samples of an evaluation: images in [-1, 1], shape (n, channels, size, size), and labels (n,).

        Where they were conditioned on attributes these are kept too, (n, A), with their names.
        """
        tensors, metadata = {"images": images, "labels": labels}, {}
        if attributes is not None:
            tensors["attributes"] = attributes
            metadata["attribute_names"] = json.dumps(names)
        write_tensors(self.layout.samples, tensors, metadata or None)
