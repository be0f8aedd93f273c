"""The run through `flwr run`, with its real exit status: that command starts a daemon, and exits 0 in any case."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import tomli_w

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.runs.run_layout import RunLayout
from simulations.runners.environment import prepare_environment
from simulations.runners.resources import check_resources
from simulations.runners.result import RunResult
from simulations.runners.run_log import RunLog
from simulations.runners.submission import follow, submit
from simulations.runners.superlink import SuperLink, private_superlink

REPOSITORY = Path(__file__).resolve().parents[2]


def run_flwr(config: Config, *, app_dir: Path = REPOSITORY) -> RunResult:
    """Submit the run to a SuperLink of its own, show what the server prints, and stop everything afterwards.

    The whole log is left in `flwr.log` in the run's folder.

    Args:
        config: the settings of the run.
        app_dir: the folder of the Flower app, with the pyproject.toml that names both apps.

    Raises:
        UserError: what the server raised, or `RunFailed` if the run ended in any other way.
        SettingError: Flower's command line has no room for what a client is to have.
    """
    if not (app_dir / "pyproject.toml").is_file():
        raise SettingError("runner", "flwr", f"it needs the app's pyproject.toml, and {app_dir} has none")
    cpus = config.resources.client_num_cpus
    if cpus != int(cpus) or cpus < 1:
        raise SettingError("resources.client_num_cpus", cpus, "a whole number from 1 with `runner` = flwr")
    check_resources(config.resources)
    config = _with_absolute_paths(config)
    prepare_environment()
    with private_superlink() as superlink:
        run_id = submit(superlink, *_arguments(superlink, config, app_dir))
        layout = RunLayout.of(config, run_id)
        layout.folder.mkdir(parents=True, exist_ok=True)
        with RunLog(layout.flower_log, show=not config.run.quiet) as log:
            follow(superlink, run_id, log)
    return RunResult(run_id, layout.folder)


def _with_absolute_paths(config: Config) -> Config:
    """The settings with whole paths: the daemon has its own idea of where relative ones begin."""

    def whole(path: str) -> str:
        return str(Path(path).absolute()) if path and Path(path).exists() else path

    output = config.run.output and str(Path(config.run.output).absolute())
    return replace(
        config,
        run=replace(config.run, output=output),
        data=replace(
            config.data,
            dataset_path=tuple(map(whole, config.data.dataset_path)),
            codec=whole(config.data.codec),
        ),
        public=replace(config.public, dataset_path=whole(config.public.dataset_path)),
        diffusion=replace(config.diffusion, start_from=whole(config.diffusion.start_from)),
    )


def _arguments(superlink: SuperLink, config: Config, app_dir: Path) -> list[str]:
    """What `flwr run` needs to run the app with these settings."""
    settings = superlink.home / "run.toml"
    settings.write_text(tomli_w.dumps(config.to_flower()))
    federation = {
        "num-supernodes": config.run.num_supernodes,
        "client-resources-num-cpus": int(config.resources.client_num_cpus),
        "client-resources-num-gpus": float(config.resources.client_num_gpus),
        "init-args-log-to-driver": "false",
    }
    pairs = " ".join(f"{name}={value}" for name, value in federation.items())
    return [str(app_dir), "--run-config", str(settings), "--federation-config", pairs]
