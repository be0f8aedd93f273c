"""What a client of the split GAN keeps between two messages: on its disk, and in its process as long as that lasts."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from collafuse_flwr.client.split_session import Session
from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.core.errors import UserError
from collafuse_flwr.core.tensor_io import read_tensors, write_tensors
from collafuse_flwr.gan.split_gan.client_half import PARTS, ForwardCache
from collafuse_flwr.gan.split_gan.precision import channels_last

#: Parts whose weights or running statistics move in a phase.
MOVED = {
    "latent": ("g_head",),
    "fake": ("g_tail", "d_head"),
    "judge": ("d_tail",),
    "discriminator": ("d_head",),
    "score": ("d_tail",),
    "generator": ("g_tail",),
}
#: Sessions that a process keeps alive; others are read from disk.
MAX_LIVE = 16
_LIVE: dict[Path, tuple[str, Session]] = {}


class SessionStore:
    """A session on disk, phase by phase: any process can go on with it.

    A live session is used only while its stamp, drawn anew in every phase, is that on the disk.
    """

    def __init__(self, folder: Path, begun_by: str = "") -> None:
        """Open the folder; only who has begun a session goes on with it."""
        self.folder, self.begun_by = folder, begun_by

    def load(self, fresh: Callable[[str], Session]) -> Session:
        """The session as the last phase left it; `fresh` makes one with its cuts to load the disk's state into.

        Raises:
            UserError: there is none, another client's process has removed it, or others have begun it.
        """
        state = self._state()
        stamp, session = _LIVE.get(self.folder, ("", None))
        if session is not None and stamp == state["stamp"]:
            return session
        session = fresh(state["cuts"])
        progress = session.progress
        progress.round, progress.step, progress.phase = state["round"], state["step"], state["phase"]
        progress.losses, progress.seconds = state["losses"], state["seconds"]
        for part in PARTS:
            session.half.load(read_tensors(self.folder / f"{part}.safetensors")[0])
        session.half.losses = dict(progress.losses)
        device = session.half.runtime.device
        gt = channels_last(read_tensors(self.folder / "gt.safetensors")[0]["gt"]).to(device) if state["gt"] else None
        batch = session.batches.draw(progress.round, progress.step) if progress.step >= 0 else None
        session.half.tape = ForwardCache(batch, gt)
        return session

    def save(self, session: Session, moved: tuple[str, ...] | None = None) -> None:
        """Write what a phase has moved (None: everything), its stamp last."""
        for part in PARTS if moved is None else moved:
            write_tensors(self.folder / f"{part}.safetensors", session.half.part_state(part))
        gt = session.half.tape.gt
        if session.progress.phase == "fake" and gt is not None:
            write_tensors(self.folder / "gt.safetensors", {"gt": gt.detach()})
        stamp = secrets.token_hex(8)
        own = {"stamp": stamp, "gt": gt is not None, "begun_by": self.begun_by}
        write_json(self.folder / "phase.json", own | session.remember())
        _LIVE.pop(self.folder, None)
        _LIVE[self.folder] = stamp, session
        while len(_LIVE) > MAX_LIVE:
            del _LIVE[next(iter(_LIVE))]

    def clear(self) -> None:
        """Drop the session: its round is over."""
        _LIVE.pop(self.folder, None)
        for path in self.folder.glob("*"):
            path.unlink()

    def _state(self) -> dict[str, Any]:
        path = self.folder / "phase.json"
        if not path.is_file():
            raise UserError("a phase of a batch was requested before its round had begun")
        session: dict[str, Any] = json.loads(path.read_text())
        if session.get("begun_by") != self.begun_by:
            raise UserError("a phase was requested of a round that began in another run, or under other settings")
        return session
