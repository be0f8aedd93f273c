"""The server's pool of uploads, memory-mapped so that it may be larger than memory."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collafuse_flwr.privacy.release import Upload, decode

#: The files of a buffer.
X_K, LABELS = "x_k.bin", "labels.bin"


@dataclass(frozen=True)
class Share:
    """One client's rows of the pool: where they begin, how many, their cut step, and their checksum."""

    begin: int
    rows: int
    cut: int
    crc32: int


@dataclass(frozen=True)
class _View:
    """Records and labels as they lie in the files, and the cut step of each; rows that were given up have any."""

    rows: NDArray[Any]
    labels: NDArray[Any] | None
    cuts: Tensor


@dataclass(frozen=True)
class LimitedRows:
    """Some rows of a pool, as a source of batches."""

    pool: UploadBuffer
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def cuts(self) -> Tensor:
        """The cut step of each row."""
        return self.pool.cuts[self.rows]

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rows as (x_k, cut step, labels or None), on the pool's device."""
        return self.pool.batch(self.rows[rows.cpu()])


class UploadBuffer:
    """All uploads held, one region of rows for each client, as one source of batches for training.

    Values stay in the type they travelled in. An upload of a client that is already there replaces its rows (`fresh`
    uploads), so the pool never holds more than one upload of each client. That is done at once, not at the checkpoint,
    so each row carries its own int8 scale: a checkpoint may be older than the rows. At another cut the upload gets a
    region of its own, behind all others, and the old one is given up: rows must not have a checkpoint's older cut.
    """

    def __init__(
        self,
        folder: Path,
        row_shape: tuple[int, int, int],
        dtype: str,
        device: torch.device,
        num_attributes: int = 0,
    ) -> None:
        """Open the pool of a folder: rows of `row_shape` and `dtype`, a class each or so many attributes of a byte."""
        self.folder, self.device = folder, device
        self.label = np.dtype((np.uint8, (num_attributes,)) if num_attributes else np.int64)
        self.row = np.dtype([("scale", np.float32), ("x_k", dtype, row_shape)])
        self.shares: dict[int, Share] = {}
        #: Clients whose rows are not those that a checkpoint had: nothing is trained on them until they come again.
        self.lost: set[int] = set()
        self._view: _View | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return sum(share.rows for share in self.shares.values())

    def __contains__(self, client: int) -> bool:
        return client in self.shares and client not in self.lost

    def add(self, client: int, cut: int, upload: Upload) -> None:
        """Take in a checked upload."""
        old = self.shares.get(client)
        begin = old.begin if old and old.cut == cut else self._end
        rows = np.empty(len(upload), self.row)
        rows["scale"], rows["x_k"] = upload.scale, upload.x_k
        x_k, labels = rows.tobytes(), b"" if upload.labels is None else upload.labels.tobytes()
        self._write(X_K, begin * self.row.itemsize, x_k)
        if labels:
            self._write(LABELS, begin * self.label.itemsize, labels)
        self.shares[client] = Share(begin, len(upload), cut, zlib.crc32(labels, zlib.crc32(x_k)))
        self.lost.discard(client)
        self._view = None

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rows by their place in the files as (x_k, cut step, labels or None), on the pool's device."""
        view, picked = self._opened(), rows.cpu()
        chosen = view.rows[picked.numpy()]
        x_k = decode(chosen["x_k"], chosen["scale"], self.device)
        labels = None if view.labels is None else torch.from_numpy(view.labels[picked.numpy()]).to(self.device)
        return x_k, view.cuts[picked].to(self.device), labels

    @property
    def cuts(self) -> Tensor:
        """The cut step of each row."""
        return self._opened().cuts if self.shares else torch.zeros(0, dtype=torch.int64)

    def sizes(self) -> dict[int, int]:
        """The rows of each client, but for those that are lost."""
        return {client: share.rows for client, share in self.shares.items() if client not in self.lost}

    @property
    def _end(self) -> int:
        """Where the rows that are held, and those given up between them, end."""
        return max((share.begin + share.rows for share in self.shares.values()), default=0)

    def limited(
        self, most: Mapping[int, float], held_out: Mapping[int, int] | None = None
    ) -> UploadBuffer | LimitedRows:
        """The rows held but for those `held_out`, at most so many of each client: the first of it.

        They left in an order of the client's own.
        """
        out = held_out or {}
        sizes = {client: rows - out.get(client, 0) for client, rows in self.sizes().items()}
        whole = not self.lost and not any(out.values()) and all(most[c] >= rows for c, rows in sizes.items())
        if whole and self._end == len(self):
            return self
        return self._some({client: range(min(rows, max(1, int(most[client])))) for client, rows in sizes.items()})

    def last(self, counts: Mapping[int, int]) -> LimitedRows:
        """The last rows of clients, so many of each: none of them is among those of `limited` without them."""
        sizes = self.sizes()
        return self._some({c: range(rows - counts.get(c, 0), rows) for c, rows in sizes.items()})

    def _some(self, rows: Mapping[int, range]) -> LimitedRows:
        places = [torch.arange(own.start, own.stop) + self.shares[client].begin for client, own in rows.items()]
        return LimitedRows(self, torch.cat(places) if places else torch.zeros(0, dtype=torch.int64))

    def labels_of(self, client: int) -> Tensor | None:
        """The labels that a client shared, (rows,) or (rows, A), or None."""
        labels, share = self._opened().labels, self.shares[client]
        return None if labels is None else torch.from_numpy(labels[share.begin : share.begin + share.rows].copy())

    def draw_labels(self, client: int, count: int, generator: torch.Generator) -> Tensor | None:
        """Labels as often as among those that a client shared, or where it shared none all; None where nobody did."""
        if not self.sizes():
            return None
        holders = [client] if client in self else sorted(self.sizes())
        shared = [labels for holder in holders if (labels := self.labels_of(holder)) is not None]
        if not shared:
            return None
        pooled = torch.cat(shared)
        return pooled[torch.randint(0, len(pooled), (count,), generator=generator)]

    def state(self) -> dict[str, dict[str, int]]:
        """The regions by client, for a checkpoint; the bytes are in the folder already."""
        return {str(client): asdict(share) for client, share in self.shares.items()}

    def restore(self, state: dict[str, dict[str, int]]) -> None:
        """Take up the regions of a checkpoint; bytes beyond them belong to a round that was cut off.

        Rows that are damaged, or have been replaced since, are `lost`.
        """
        self.shares = {int(client): Share(**share) for client, share in state.items()}
        self._lengthen(X_K, self._end * self.row.itemsize)
        if (self.folder / LABELS).exists():
            self._lengthen(LABELS, self._end * self.label.itemsize)
        self._view = None
        self.lost = {client for client, share in self.shares.items() if self._crc32(share) != share.crc32}

    def _crc32(self, share: Share) -> int:
        """The checksum of rows as they lie in the files."""
        view, own = self._opened(), slice(share.begin, share.begin + share.rows)
        crc = zlib.crc32(view.rows[own].tobytes())
        return crc if view.labels is None else zlib.crc32(view.labels[own].tobytes(), crc)

    def _lengthen(self, name: str, size: int) -> None:
        """Fill up a file that was truncated, so that the rest of it can be mapped."""
        path = self.folder / name
        if size and (not path.exists() or path.stat().st_size < size):
            self._write(name, size - 1, b"\0")

    def _write(self, name: str, offset: int, data: bytes) -> None:
        path = self.folder / name
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.seek(offset)
            file.write(data)

    def _opened(self) -> _View:
        """The files mapped into memory, mapped anew after every change."""
        if self._view is None:
            path, rows = self.folder / LABELS, self._end
            cuts = torch.zeros(rows, dtype=torch.int64)
            for share in self.shares.values():
                cuts[share.begin : share.begin + share.rows] = share.cut
            self._view = _View(
                np.memmap(self.folder / X_K, self.row, "r", shape=(rows,)),
                np.memmap(path, self.label, "r", shape=(rows,)) if path.exists() else None,
                cuts,
            )
        return self._view
