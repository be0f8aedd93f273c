"""Many runs: `python -m simulations.sweep strategy=collafuse,fedavg cut_ratio=0,0.2,1 seed=0,1,2 output=FOLDER`.

Every combination of the values, separated by commas, is a run in a folder and a process of its own. Combinations that
mean the same run are run once. The same command again continues: finished runs are kept, interrupted ones resumed, and
failed ones repeated. A report of all runs is in FOLDER/report.
Two at a time: hydra/launcher=joblib hydra.launcher.n_jobs=2 (then give each one core, with resources.server_threads=1).
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from collafuse_flwr.config.config import Config, without_unread
from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.core.errors import SettingError, UserError
from simulations.cli import (
    FAILED,
    MULTIRUN,
    command,
    compose,
    flat_settings,
    fresh_folder,
    given_names,
    launch,
    settings_usage,
)
from simulations.sweep.grid import SweepRun, distinct, fingerprint, override
from simulations.sweep.job import JobResult, run_job

#: Arguments that say who calls the task, and not what is run.
LAUNCHER = ("hydra/launcher=", "hydra.launcher.")


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep is about to do: its cells, and for each of Hydra's jobs the cell that it runs, if it runs one."""

    folder: Path
    cells: list[SweepRun]
    jobs: list[int | None]

    def save(self, notes: Path) -> None:
        """Write the plan to where the jobs, which may be other processes, read it."""
        cells = [asdict(cell) | {"config": cell.config.to_flat()} for cell in self.cells]
        write_json(notes / "plan.json", {"folder": str(self.folder), "cells": cells, "jobs": self.jobs})

    @classmethod
    def load(cls, notes: Path) -> SweepPlan:
        """Read what `save` wrote."""
        plan = json.loads((notes / "plan.json").read_text())
        cells = [SweepRun(**cell | {"config": Config.from_flat(cell["config"])}) for cell in plan["cells"]]
        return cls(Path(plan["folder"]), cells, plan["jobs"])


def sweep(arguments: list[str]) -> int:
    """Run every combination of the values in the arguments; the exit status.

    Raises:
        UserError: a mistake that no run would survive.
    """
    overrides = [argument for argument in arguments if argument not in MULTIRUN]
    settings = [argument for argument in overrides if not argument.startswith(LAUNCHER)]
    plan, refused = _plan(compositions(settings), given_names(settings))
    for line in refused:
        print(f"not run: {line}", file=sys.stderr)
    for cell in plan.cells:
        if cell.duplicates:
            print(f"{'; '.join(cell.duplicates)}: same run as {cell.name}")
    print(f"{len(plan.cells)} cells in {plan.folder}", flush=True)
    plan.folder.mkdir(parents=True, exist_ok=True)
    # Hydra writes its arguments there as well.
    with tempfile.TemporaryDirectory(prefix=".sweep-", dir=plan.folder) as notes:
        plan.save(Path(notes))
        launch(["-m", *overrides, override("hydra.sweep.dir", notes)], run_hydra_job)
        outcomes = _outcomes(Path(notes))
    return _conclude(plan, outcomes, len(refused))


def run_hydra_job(_: DictConfig) -> None:
    """Run the cell of one of Hydra's jobs, in whatever process its launcher has put it."""
    job = HydraConfig.get()
    notes = Path(job.sweep.dir)
    plan = SweepPlan.load(notes)
    number = plan.jobs[job.job.num]
    if number is None:
        return
    cell = plan.cells[number]
    label = f"cell {cell.number} of {len(plan.cells)}: {cell.name}"
    print(f"{label}: starts", flush=True)
    result = run_job(cell, plan.folder)
    with (notes / "outcomes.jsonl").open("a") as file:
        file.write(json.dumps(asdict(result)) + "\n")
    print(f"{label}: {_status(result)}; {len(plan.cells) - len(_outcomes(notes))} left", flush=True)


def compositions(arguments: list[str]) -> list[DictConfig]:
    """The settings of every combination of the values in some arguments."""
    with tempfile.TemporaryDirectory() as nowhere:
        return compose(["-m", *arguments, override("hydra.sweep.dir", nowhere)])


def _plan(composed: list[DictConfig], names_given: Collection[str]) -> tuple[SweepPlan, list[str]]:
    """The plan, and a line for each combination of values that is not allowed.

    Raises:
        UserError: none is allowed, or `output` has several values.
    """
    configs: dict[int, Config] = {}
    errors: list[UserError] = []
    for job, settings in enumerate(composed):
        try:
            configs[job] = Config.from_flat(without_unread(flat_settings(settings) | {"resume": False}))
        except UserError as error:
            errors.append(error)
    if not configs:
        raise errors[0]
    _refuse_unread(list(configs.values()), composed[0], names_given)
    for config in configs.values():
        if config.run.baseline != "none":
            allowed = "none in a sweep, whose report compares with alone where `strategy` lists local as well"
            raise SettingError("baseline", config.run.baseline, allowed)
    outputs = sorted({config.run.output for config in configs.values()})
    if len(outputs) > 1:
        raise SettingError("output", ",".join(outputs), "one folder, for the whole sweep")
    _preflight(list(configs.values()))
    first = next(iter(configs.values()))
    folder = Path(outputs[0]).absolute() if outputs[0] else Path(f"{fresh_folder(first)}-sweep")
    cells = [_under_existing_name(cell, folder) for cell in distinct(list(configs.values()))]
    numbers = {fingerprint(cell.config): index for index, cell in enumerate(cells)}
    jobs: list[int | None] = [None] * len(composed)
    for job, config in configs.items():
        # The first job of a cell runs it.
        jobs[job] = numbers.pop(fingerprint(config), None)
    return SweepPlan(folder, cells, jobs), [str(error) for error in errors]


def _refuse_unread(configs: list[Config], settings: DictConfig, names_given: Collection[str]) -> None:
    """Refuse a setting that was given and that no run reads; where some do, it makes the others no second run.

    Raises:
        SettingError: there is one.
    """
    for name in sorted(names_given):
        if all(config.unread(name) for config in configs):
            raise SettingError(name, flat_settings(settings)[name], f"left out {configs[0].unread(name)}")


def _preflight(configs: list[Config]) -> None:
    """Find a mistake that all have in common before anything is started: one that passes shows that there is none.

    Raises:
        UserError: all have one.
    """
    from simulations.preflight import preflight  # noqa: PLC0415 - slow, and a process for each job would import it

    errors = []
    for config in configs:
        try:
            return preflight(config)
        except UserError as error:
            errors.append(error)
    raise errors[0]


def _under_existing_name(cell: SweepRun, folder: Path) -> SweepRun:
    """The cell under the name that it already has: names tell what was swept, and that may be more than before."""
    there = sorted(path.name for path in folder.glob(f"*-{fingerprint(cell.config)}") if path.is_dir())
    return replace(cell, name=there[0]) if there else cell


def _outcomes(notes: Path) -> list[JobResult]:
    path = notes / "outcomes.jsonl"
    return [JobResult(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def _status(result: JobResult) -> str:
    seconds = f" after {result.seconds:.0f} s" if result.seconds else ""
    status = f" (exit status {result.status})" if result.status else ""
    return f"{result.state}{seconds}{status}" + (f": {result.message}" if result.message else "")


def _conclude(plan: SweepPlan, outcomes: list[JobResult], refused: int) -> int:
    """Say what came of it, and write the report of what is finished."""
    from simulations.report.page import write_report  # noqa: PLC0415 - as above

    for result in outcomes:
        if result.state in ("failed", "claimed"):
            print(f"{result.name}: {_status(result)}", file=sys.stderr)
    finished = sum(result.state in ("done", "done before") for result in outcomes)
    print(f"{finished} of {len(plan.cells)} cells are finished, in {plan.folder}")
    if finished:
        print(f"The report is {write_report([plan.folder], plan.folder / 'report')}")
    return 0 if finished == len(plan.cells) and not refused else FAILED


main = command(
    sweep,
    usage=settings_usage(str(__doc__)),
    going_on="the same command with the same `output` goes on",
)
