"""Where the numbers and pictures of a run are shown while it runs: TensorBoard, MLflow, Weights & Biases.

Their packages are imported only where `tracker` names them. Whatever is chosen stays below the run's folder, unless the
environment says otherwise (MLFLOW_TRACKING_URI, WANDB_MODE).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Self

import numpy as np
from PIL import Image

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.runs.history import RoundRecord
from collafuse_flwr.runs.round_scalars import quality_scalars, round_scalars
from collafuse_flwr.runs.run_layout import RunLayout

#: Pictures that show clients' own images.
REAL = ("overview.png", "domains.png")
#: The experiment, or project, that runs are listed in.
PROJECT = "collafuse-flwr"


class Tracker:
    """Shows nothing; the others show what they are given."""

    #: What must be importable, and what installs it.
    module: ClassVar[str] = ""
    install: ClassVar[str] = ""
    #: Whether it is made to be sent to others, so that clients' own images stay out of it.
    shared: ClassVar[bool] = False

    def __init__(self, config: Config, layout: RunLayout, first: int) -> None:
        """Open it for a run that goes on with round `first`."""

    @classmethod
    def load(cls) -> ModuleType:
        """Import what it needs.

        Raises:
            SettingError: it is not installed.
        """
        try:
            return importlib.import_module(cls.module)
        except ImportError as error:
            name = next(name for name, kind in TRACKERS.items() if kind is cls)
            allowed = f"what is installed (`{cls.install}` installs this one; {error})"
            raise SettingError("tracker", name, allowed) from error

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Show numbers of a round, by name."""

    def image(self, path: Path, step: int) -> None:
        """Show a PNG file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)

    def close(self, *, failed: bool) -> None:
        """Write what is left, and end; with the mark of a run that failed, where there is one."""

    def round(self, row: RoundRecord) -> None:
        """Show a round that is closed."""
        self.scalars(round_scalars(row), row.round)

    def end(self, summary: dict[str, Any], pictures: Path, step: int) -> None:
        """Show what was measured at the end, and the pictures."""
        self.scalars(quality_scalars(summary), step)
        for path in sorted(pictures.glob("*.png")):
            if not (self.shared and path.name in REAL):
                self.image(path, step)


class TensorBoard(Tracker):
    """Event files, which `tensorboard --logdir` shows; of a round that is run again, the earlier ones are dropped."""

    module, install = "torch.utils.tensorboard", "pip install tensorboard"

    def __init__(self, config: Config, layout: RunLayout, first: int) -> None:
        self.writer = self.load().SummaryWriter(str(layout.tensorboard), purge_step=first)
        rows = [f"    {name}={value}" for name, value in config.to_flat().items()]
        self.writer.add_text("settings", "\n".join(rows), first)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """As `Tracker.scalars`."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def image(self, path: Path, step: int) -> None:
        """As `Tracker.image`."""
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self.writer.add_image(f"pictures/{path.stem}", pixels, step, dataformats="HWC")

    def close(self, *, failed: bool) -> None:  # noqa: ARG002 (event files have no such mark)
        """As `Tracker.close`."""
        self.writer.close()


class Mlflow(Tracker):
    """A run of MLflow in a data base of the run's own, or where MLFLOW_TRACKING_URI says."""

    module, install, shared = "mlflow", "pip install mlflow", True

    def __init__(self, config: Config, layout: RunLayout, first: int) -> None:
        # It would report that it is used.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        mlflow, folder = self.load(), layout.mlflow
        folder.mkdir(parents=True, exist_ok=True)
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        self.client = mlflow.MlflowClient(tracking_uri=uri or f"sqlite:///{folder / 'mlflow.db'}")
        present = self.client.get_experiment_by_name(PROJECT)
        where = None if uri else (folder / "artifacts").as_uri()
        experiment = self.client.create_experiment(PROJECT, where) if present is None else present.experiment_id
        self.run = self.client.create_run(experiment, run_name=layout.folder.name).info.run_id
        for name, value in (config.to_flat() | {"first_round": first}).items():
            self.client.log_param(self.run, name, value)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """As `Tracker.scalars`."""
        for name, value in values.items():
            self.client.log_metric(self.run, name, value, step=step)

    def image(self, path: Path, step: int) -> None:
        """As `Tracker.image`."""
        self.client.log_artifact(self.run, str(path), f"pictures/round-{step}")

    def close(self, *, failed: bool) -> None:
        """As `Tracker.close`."""
        self.client.set_terminated(self.run, "FAILED" if failed else "FINISHED")


class Wandb(Tracker):
    """A run of Weights & Biases: files that `wandb sync` sends, or sent at once where WANDB_MODE=online says so."""

    module, install, shared = "wandb", "pip install wandb", True

    def __init__(self, config: Config, layout: RunLayout, first: int) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self.wandb = self.load()
        layout.folder.mkdir(parents=True, exist_ok=True)
        self.run = self.wandb.init(
            project=PROJECT,
            name=layout.folder.name,
            dir=str(layout.folder),
            config=config.to_flat() | {"first_round": first},
            mode=os.environ.get("WANDB_MODE", "offline"),
            # What is on the terminal, the code and the machine are none of its business.
            settings=self.wandb.Settings(
                silent=True,
                console="off",
                save_code=False,
                host="-",
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """As `Tracker.scalars`."""
        self.run.log(dict(values), step=step)

    def image(self, path: Path, step: int) -> None:
        """As `Tracker.image`."""
        self.run.log({f"pictures/{path.stem}": self.wandb.Image(str(path))}, step=step)

    def close(self, *, failed: bool) -> None:
        """As `Tracker.close`."""
        self.run.finish(exit_code=int(failed))


TRACKERS: dict[str, type[Tracker]] = {"none": Tracker, "tensorboard": TensorBoard, "mlflow": Mlflow, "wandb": Wandb}


def check_tracker(config: Config) -> None:
    """Find out whether the tracker can be used, before anything is trained.

    Raises:
        SettingError: its package is not installed.
    """
    kind = TRACKERS[config.run.tracker]
    if kind.module:
        kind.load()


def open_tracker(config: Config, layout: RunLayout, first: int) -> Tracker:
    """The tracker that the settings name, for a run that goes on with round `first`."""
    return TRACKERS[config.run.tracker](config, layout, first)
