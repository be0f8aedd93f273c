"""Opening a run's folder: new, or to go on where an interrupted run stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from collafuse_flwr import __version__
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.core.errors import SettingError, UserError
from collafuse_flwr.data.codec import pinned
from collafuse_flwr.runs.run_layout import LAYOUT, RunLayout

#: Where config.json has the digest of the run's codec.
CODEC = "codec_digest"
#: Settings that may differ between a run and its continuation: they do not change what is computed.
RESUMABLE = (
    *("runner", "output", "resume", "attack", "baseline", "policy", "quiet", "tracker", "federation.round_timeout"),
    *("resources.client_num_cpus", "resources.client_num_gpus", "data.cache_path"),
)


def open_run(config: Config, folder: Path) -> None:
    """Make the folder and record the settings in it, or check them against those of the run to go on with.

    Raises:
        SettingError: the folder already holds a run and `resume` is false; it holds none and `resume` is true; or a
            setting differs from the run's.
    """
    check_folder(config, folder)
    if not config.run.resume:
        write_config(config, folder)


@contextmanager
def held_run(config: Config, folder: Path) -> Iterator[None]:
    """Open a run's folder, as `open_run` does, and keep every other run out of it meanwhile.

    Raises:
        SettingError: as `open_run`, or a run is under way in the folder.
    """
    # Before anything is made there.
    check_folder(config, folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(RunLayout(folder).lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise SettingError("output", str(folder), "a folder in which no run is under way") from None
    try:
        open_run(config, folder)
        yield
    finally:
        lock.release()


def check_folder(config: Config, folder: Path) -> None:
    """Hold a folder to what `open_run` needs, and leave it as it is.

    Raises:
        SettingError: as `open_run`.
    """
    if not config.run.resume:
        if folder.exists() and not (folder.is_dir() and _only_logs(folder)):
            raise SettingError("output", str(folder), "a new or empty folder, or resume=true to go on with a run in it")
        return
    before, now = open_config(folder).to_flat(), config.to_flat()
    for name, value in now.items():
        if name not in RESUMABLE and before[name] != value:
            raise SettingError(name, value, f"{before[name]!r}, as in the run to resume")


def write_config(config: Config, folder: Path) -> None:
    """Record the settings of the run in a folder, the layout of the folder, and the version that writes it.

    Of a codec its digest is recorded as well: by another one in the same folder the run's images would be others.
    """
    codec = {CODEC: pinned(config.data.codec)} if config.data.codec else {}
    write_json(RunLayout(folder).config, {"layout": LAYOUT, "version": __version__} | codec | config.to_flat())


def read_config(folder: Path, setting: str = "output") -> Config:
    """The settings of the run in a folder, which a `setting` names.

    Raises:
        SettingError: there is no run.
        UserError: its settings cannot be read, or another version has written it in another way.
    """
    path = RunLayout(folder).config
    if not path.is_file():
        raise SettingError(setting, str(folder), f"a folder that holds a run (no {path.name} in it)")
    try:
        flat = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(flat, dict):
        raise UserError(f"{path} is damaged: it holds no settings by name")
    layout, version = flat.pop("layout", 1), flat.pop("version", "older than 0.1.0")
    flat.pop(CODEC, None)
    if layout != LAYOUT:
        raise _other_version(folder, version, f"the layout {layout} (this version reads {LAYOUT})")
    try:
        return Config.from_flat(flat)
    except SettingError as error:
        raise _other_version(folder, version, f"settings that this version does not read: {error}") from error


def open_config(folder: Path, setting: str = "output") -> Config:
    """The settings of the run in a folder, as `read_config` reads them, whose codec is still the one of the run.

    Raises:
        SettingError: there is no run, or its codec is another now, or not there.
        UserError: as `read_config`.
    """
    config = read_config(folder, setting)
    codec, recorded = config.data.codec, codec_of(folder)
    if pinned(codec) != recorded:
        raise SettingError("codec", codec, f"the folder of that of the run in {folder}, {recorded}")
    return config


def codec_of(folder: Path) -> str:
    """The codec of the run in a folder, as `pinned` has it; empty where it had none."""
    return str(json.loads(RunLayout(folder).config.read_text()).get(CODEC, ""))


def _other_version(folder: Path, version: str, difference: str) -> UserError:
    advice = "run it again in another folder, or use that version"
    return UserError(f"the run in {folder} was written by version {version} with {difference}; {advice}")


def _only_logs(folder: Path) -> bool:
    """Whether the folder has only files of the runners: Hydra's own folder, logs, and the lock."""
    own = ".hydra", RunLayout(folder).lock.name
    return all(entry.name in own or entry.suffix == ".log" for entry in folder.iterdir())
