"""The ServerApp: from a run's settings to a strategy, to what the run leaves."""

from __future__ import annotations

import logging
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.progress import Progress
from collafuse_flwr.core.runtime import threads
from collafuse_flwr.evaluation.pretrained import pretrained_networks
from collafuse_flwr.runs.console import print_summary
from collafuse_flwr.runs.metrics import further_metrics
from collafuse_flwr.runs.run_dir import held_run
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.runs.summary import simulated_data, summarize_run
from collafuse_flwr.runs.tracker import check_tracker, open_tracker
from strategies import make_strategy
from strategies.generation import generate_together

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a strategy over the federation, then measure and show what came of it.

    Raises:
        UserError: a setting is not allowed, or nobody could take part.
    """
    config = Config.from_flat(context.run_config)
    if config.run.task == "generate":
        with Progress(config.run.quiet) as progress:
            generate_together(config, grid, progress, context.run_id)
        return
    if config.run.attack:
        allowed = "false here: `python -m simulations.attack run=FOLDER` attacks a simulation that is finished"
        raise SettingError("attack", True, allowed)
    if config.run.baseline != "none":
        raise SettingError("baseline", config.run.baseline, "none here: `python -m simulations.run` runs it beside")
    # What is read after the last round is read here as well: a mistake must not cost the training.
    pretrained_networks(config.evaluation)
    further_metrics(config)
    check_tracker(config)
    layout = RunLayout.of(config, context.run_id)
    folder = layout.folder
    logging.getLogger("flwr").setLevel(logging.WARNING)
    with held_run(config, folder), Progress(config.run.quiet) as progress:
        strategy = make_strategy(config, folder, progress, lambda client: _simulated(config, context.run_id, client))
        arrays = strategy.connect(grid)
        _report_data(config, layout, progress)
        with open_tracker(config, layout, strategy.done + 1) as tracker:
            strategy.on_round = tracker.round
            strategy.start(grid, arrays, strategy.rounds_left, config.federation.round_timeout)
            strategy.save()
            progress.begin_measuring()
            # One thread: small classifiers gain nothing from more, and so the figures do not depend on the machine.
            with threads(1):
                summary = summarize_run(folder)
            tracker.end(summary, layout.pictures, config.run.num_rounds)
    print_summary(summary, folder, progress.console)


def _report_data(config: Config, layout: RunLayout, progress: Progress) -> None:
    """Say what is to be known of the images of a simulation, which its clients have read by now, and keep it."""
    if (data := simulated_data(config, layout)) is not None:
        write_json(layout.data_report, data.images.report.as_json())
        for line in data.images.report.lines:
            progress.say(f"images: {line}")


def _simulated(config: Config, run: int, client: int) -> Any:
    """A client of a simulation, for a strategy that may do without messages."""
    # Slow to import, and most runs need it not.
    from collafuse_flwr.client.factory import make_simulated_client  # noqa: PLC0415

    return make_simulated_client(config, client, RunLayout.of(config, run).client(client).folder, str(run))
