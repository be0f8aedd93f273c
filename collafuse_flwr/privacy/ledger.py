"""What has left a client, line by line: an append-only file on its own disk, across runs, settings and strategies.

Every entry is on the disk before what it names leaves. Nothing here is ever taken back with a state of training, and no
setting, round number or run makes it forget.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from collafuse_flwr.core.atomic_io import append_json_lines, read_appended
from collafuse_flwr.core.errors import PolicyError, RoundError, SecretError
from collafuse_flwr.privacy.accounting import Training, release_mu
from collafuse_flwr.privacy.exposure import Exposure

#: Refusals that are listed, each reason once a run; later ones are in the client's log alone.
MAX_REFUSALS = 10_000
#: Bytes of a ledger; one that is full lets nothing more leave. An operator could else fill the disk by messages.
MAX_BYTES = 2**28

#: A path of noise: the largest norm of an image on it, and the draw.
_Path = tuple[float, int]


@dataclass(frozen=True)
class Release:
    """One release of some images.

    Attributes:
        keys: what names each image (`release.image_keys`), in hexadecimal digits.
        draws: the number of each draw of noise.
        snr: alpha_bar / (1 - alpha_bar) at the cut; inf for clean images.
        clip_norm: the norm that images were clipped to; 0: none.
        shape: channels, height and width.
        enlargement: values of an image in it for each of the image's own, at least 1, at most over the images.
        codec: the digest of the codec whose latents are released; empty: the images themselves are.
    """

    keys: tuple[str, ...]
    draws: tuple[int, ...]
    snr: float
    clip_norm: float
    shape: tuple[int, ...]
    enlargement: float = 1.0
    codec: str = ""

    @property
    def native_snr(self) -> float:
        """The signal-to-noise ratio of the images' own values, once the noise of their copies is averaged."""
        return self.snr * self.enlargement

    @property
    def images(self) -> str:
        """A name for these images together."""
        return hashlib.blake2b("".join(self.keys).encode(), digest_size=8).hexdigest()

    @property
    def norm(self) -> float:
        """The largest norm that an image has in it."""
        return self.clip_norm or math.sqrt(math.prod(self.shape))


#: What is read of entries, by their kind.
_FIELDS: dict[str, set[str]] = {
    "images": {"images", "keys"},
    # Entries from before there were codecs, and those without one, name none.
    "release": {"images", *(own.name for own in fields(Release) if own.name not in ("keys", "codec"))},
    "dp_sgd": {own.name for own in fields(Training)},
    "round": {"round", "message"},
    "refusal": {"reason"},
    "secret": {"check"},
}


class Ledger:
    """The file of one client; what is added names the run that requested it."""

    def __init__(self, path: Path, run: str = "", *, durable: bool = True) -> None:
        """Open the ledger; a simulation's need not be `durable`, whose disk nobody else counts on."""
        self.path, self.run, self.durable = path, run, durable

    def add(self, kind: str, **values: Any) -> None:
        """Append an entry."""
        self._append([{"kind": kind} | values])

    def add_refusal(self, reason: str) -> None:
        """Append a refusal, if it is a new one of this run and there is room."""
        refusals = self._of("refusal")
        listed = any((entry["run"], entry["reason"]) == (self.run, reason) for entry in refusals)
        if not listed and len(refusals) < MAX_REFUSALS and not self._full:
            self.add("refusal", reason=reason)

    def add_once(self, kind: str, **values: Any) -> None:
        """Append an entry, unless this run has the same already."""
        row = {"kind": kind, "run": self.run} | values
        if not any(row.items() <= entry.items() for entry in self._of(kind)):
            self.add(kind, **values)

    def check_secret(self, secret: bytes) -> None:
        """Hold a secret against the one that everything so far was released with.

        Under another one all images would have new names, and leave once more with new noise.

        Raises:
            SecretError: it is another.
        """
        check = hashlib.blake2b(b"check", digest_size=8, key=secret).hexdigest()
        before = [entry["check"] for entry in self._of("secret")]
        if not before:
            self._append([{"kind": "secret", "check": check}])
        elif before[0] != check:
            raise SecretError(f"the secret beside {self.path} is another than before: restore it from a backup")

    def begin(self, message: str, round_: int) -> None:
        """Begin the answer to a message of a round; rounds never go back, and each message comes once in a round.

        A round that is begun a second time would be another answer about the same images.

        Raises:
            RoundError: the round is over, or this message has been answered in it.
        """
        rounds = [(entry["round"], entry["message"]) for entry in self._of("round") if entry["run"] == self.run]
        last = max((number for number, _ in rounds), default=0)
        if round_ < last or (round_, message) in rounds:
            raise RoundError(f"`round` = {round_} of {message} is not allowed: this run has come to round {last}")
        self.add("round", round=round_, message=message)

    def add_release(self, release: Release, **values: Any) -> None:
        """Append a release; its images are listed once."""
        rows: list[dict[str, Any]] = []
        if release.images not in self._image_sets:
            rows.append({"kind": "images", "images": release.images, "keys": release.keys})
        own = {name: value for name, value in asdict(release).items() if name != "keys" and (value or name != "codec")}
        rows.append({"kind": "release", "images": release.images} | own | values)
        self._append(rows)

    def add_training(self, training: Training, max_grad_norm: float, state: str = "") -> None:
        """Append steps of DP-SGD.

        `state` names what they led to: steps that led to a state that is listed already are the same steps, repeated.
        Without it, as for steps with fresh noise that are still to be taken, they count in any case.
        """
        row = {"kind": "dp_sgd"} | asdict(training) | {"max_grad_norm": max_grad_norm, "state": state}
        if not state or not any(row.items() <= entry.items() for entry in self._of("dp_sgd")):
            self._append([row])

    def exposure(self, *more: Release, training: Iterable[Training] = ()) -> Exposure:
        """What has left, and what would have with `more` releases or steps: then of their images only."""
        by_form: dict[tuple[tuple[int, ...], str], dict[str, dict[_Path, tuple[float, float]]]]
        by_form = defaultdict(lambda: defaultdict(dict))
        for release in (*self.releases, *more):
            for key in release.keys:
                paths = by_form[release.shape, release.codec][key]
                for draw in release.draws:
                    path = release.norm, draw
                    native, own = paths.get(path, (0.0, 0.0))
                    paths[path] = max(native, release.native_snr), max(own, release.snr)
        released = {key for release in more for key in release.keys}
        releases, snr, squares = 0, 0.0, 0.0
        for images in by_form.values():
            # An image of another size, or other latents of it, has another key: whatever left there may have been it.
            here = [paths for key, paths in images.items() if key in released] or list(images.values())
            releases += max(map(len, here))
            snr += max(sum(native for native, _ in paths.values()) for paths in here)
            squares += max(sum(release_mu(own, norm) ** 2 for (norm, _), (_, own) in paths.items()) for paths in here)
        steps = _merged([*self._training, *training])
        plain = any("noise_multiplier" not in entry for entry in self._of("weights"))
        return Exposure(releases, snr, math.sqrt(squares), steps, self._unbounded, self._updates, plain)

    @property
    def releases(self) -> list[Release]:
        """Every release."""
        return [
            Release(
                self._image_sets[entry["images"]],
                tuple(entry["draws"]),
                # JSON has no infinity.
                math.inf if entry["snr"] is None else entry["snr"],
                entry["clip_norm"],
                tuple(entry["shape"]),
                entry["enlargement"],
                entry.get("codec", ""),
            )
            for entry in self._of("release")
        ]

    @cached_property
    def entries(self) -> list[dict[str, Any]]:
        """Every entry, oldest first.

        Raises:
            SecretError: the file is damaged: what has left cannot be counted any more.
        """
        try:
            rows = read_appended(self.path)
            complete = all(_FIELDS.get(row["kind"], set()) | {"run"} <= row.keys() for row in rows)
        except (ValueError, KeyError, TypeError, AttributeError):
            complete = False
        if not complete:
            raise SecretError(
                f"{self.path} is damaged, or of another version: restore it, or the version, from a backup"
            )
        return rows

    @property
    def _image_sets(self) -> dict[str, tuple[str, ...]]:
        return {entry["images"]: tuple(entry["keys"]) for entry in self._of("images")}

    @property
    def _training(self) -> list[Training]:
        return [Training(row["noise_multiplier"], row["sampling_rate"], row["steps"]) for row in self._of("dp_sgd")]

    @property
    def _updates(self) -> tuple[Training, ...]:
        """Those that differ: the same weights once more tell nothing new."""
        noised = {e["digest"]: e["noise_multiplier"] for e in self._of("weights") if "noise_multiplier" in e}
        return _merged(Training(noise, 1.0, 1) for noise in noised.values())

    @property
    def _unbounded(self) -> bool:
        return any(entry.get("unbounded") for entry in self.entries)

    def count(self, kind: str, **values: Any) -> int:
        """How many entries of a kind there are that hold these values."""
        return sum(values.items() <= entry.items() for entry in self._of(kind))

    def _of(self, kind: str) -> list[dict[str, Any]]:
        return [entry for entry in self.entries if entry["kind"] == kind]

    def released_as(self) -> set[str]:
        """The kinds of data sets as which images have been read that were released."""
        return {entry["dataset"] for entry in self._of("release") if "dataset" in entry}

    @property
    def _full(self) -> bool:
        return self.path.exists() and self.path.stat().st_size >= MAX_BYTES

    def _append(self, rows: list[dict[str, Any]]) -> None:
        """Append entries.

        Raises:
            PolicyError: the file is full.
            OSError: the disk is.
        """
        if self._full:
            raise PolicyError("the ledger of this client's owner is full: nothing more leaves")
        stamped = [{"time": int(time.time()), "run": self.run} | row for row in rows]
        written = append_json_lines(self.path, stamped, self.durable)
        # A ledger is read once a message, however much that adds to it.
        if "entries" in self.__dict__:
            self.entries.extend(written)


def _merged(steps: Iterable[Training]) -> tuple[Training, ...]:
    """Steps of equal noise and sampling rate, added up."""
    total: dict[tuple[float, float], int] = defaultdict(int)
    for own in steps:
        total[own.noise_multiplier, own.sampling_rate] += own.steps
    return tuple(Training(sigma, q, count) for (sigma, q), count in sorted(total.items()))
