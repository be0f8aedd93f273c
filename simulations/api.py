"""What a program or a notebook does with a federation: train, load, generate, attack and report.

    import collafuse_flwr as cf

    run = cf.train(dataset="digits", cut_ratio=0.3, num_rounds=5, output="runs/first")
    images = run.generate(client=2, label=5, n=16)
    card = run.attack(shadow_steps=100)
    pipeline = run.pipeline(client=2)
    run.export("for-the-hub", client=2)
    page = cf.report("runs/first", "runs/second", output="comparison")

Settings are those of the commands; `gan__width=32`, or {"gan.width": 32}, is `gan.width`. All raise
`collafuse_flwr.core.errors.UserError`, one line that names what is not allowed.

It lives here because it drives the runners, which are above `collafuse_flwr`; that package hands its names on when
they are first used, and imports nothing for them before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.runs.loaded_run import load_history, summary_of
from collafuse_flwr.runs.run_dir import read_config
from collafuse_flwr.runs.run_layout import RunLayout

if TYPE_CHECKING:
    from collafuse_flwr.diffusion.pipeline import CollaFusePipeline
    from simulations.dealt_partitioner import DealtPartitioner


@dataclass(frozen=True)
class TrainedRun:
    """A finished run: its folder and its settings."""

    folder: Path
    # A notebook that shows a run would show every setting.
    config: Config = field(repr=False)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What it measured: `pooled` over all clients, and `clients`, a row for each."""
        summary: dict[str, Any] = json.loads(RunLayout(self.folder).summary.read_text())
        return summary

    def generate(self, client: int, label: int = -1, n: int = 64, **settings: object) -> Path:
        """Generate n images of a client, of one class or of all (-1); as `generate`."""
        return generate(self.folder, client=client, label=label, num_images=n, **settings)

    def attack(self, **settings: object) -> Path:
        """Attack it, as `attack` does."""
        return attack(self.folder, **settings)

    def report(self, output: Path | str = "") -> Path:
        """The report of this run alone, in its folder `report` if no other is named; the page's path."""
        return report(self.folder, output=output or self.folder / "report")

    def pipeline(self, client: int) -> CollaFusePipeline:
        """Its backbone and a client's denoiser, as a pipeline of diffusers: x_T -> x_k -> x_0 by two networks.

        Raises:
            SettingError: there is no such client, or no networks that diffusers can load.
        """
        from simulations.export import load_pipeline  # noqa: PLC0415 - as above

        return load_pipeline(self.folder, client)

    def export(self, output: Path | str, client: int) -> Path:
        """Write a client's pipeline into a new folder, with a model card of what the run measured; the folder.

        Both networks are in it: who has it can attack the client's, which CollaFuse leaves with the client.

        Raises:
            SettingError: as `pipeline`, or the folder is not empty.
        """
        from simulations.export import export  # noqa: PLC0415 - as above

        return export(self.folder, client, Path(output).absolute())


def train(settings: Mapping[str, object] | None = None, /, **more: object) -> TrainedRun:
    """Run one federation, as `python -m simulations.run` does.

    Args:
        settings: by public names, as {"gan.width": 32}.
        more: the same as keywords, as `gan__width=32`.

    Raises:
        UserError: a setting is not allowed, or the run failed.
    """
    from simulations.run import run  # noqa: PLC0415 - Hydra and torch, which who reads results need not wait for

    return load(run(Config.from_flat({**(settings or {}), **_public(more)})))


def load(folder: Path | str) -> TrainedRun:
    """A finished simulation in a folder.

    Raises:
        SettingError: there is none, or it has not come to its end.
    """
    path = Path(folder).absolute()
    config = read_config(path)
    load_history(path)
    summary_of(path)
    return TrainedRun(path, config)


def partitioner(settings: Mapping[str, object] | None = None, /, **more: object) -> DealtPartitioner:
    """Who would hold which images, as a partitioner of Flower Datasets; its column of classes is `label`.

    Args:
        settings: as for `train`.
        more: the same as keywords.

    Raises:
        UserError: a setting is not allowed, or the images cannot be loaded or dealt.
    """
    from collafuse_flwr.data.federated import federation_data  # noqa: PLC0415 - as above
    from simulations.dealt_partitioner import DealtPartitioner  # noqa: PLC0415

    config = Config.from_flat({**(settings or {}), **_public(more)})
    return DealtPartitioner(federation_data(config.data, config.run.num_supernodes, config.run.seed))


def generate(folder: Path | str, **settings: object) -> Path:
    """Generate images from a run of diffusion models, as `python -m simulations.generate` does; where they are.

    Args:
        folder: of the run.
        settings: of conf/generate.yaml, as `client=3`, `num_images=16` or `output="images"`.

    Raises:
        SettingError: one is not allowed.
    """
    from simulations.generate import GenerateRequest  # noqa: PLC0415 - as above
    from simulations.generate import generate as generate_images  # noqa: PLC0415

    return generate_images(GenerateRequest.of(_command_settings("generate", {"run": str(folder), **settings})))


def attack(folder: Path | str, **settings: object) -> Path:
    """Attack a run, as `python -m simulations.attack` does; where attacks.json and the pictures are.

    Args:
        folder: of the run.
        settings: `attacks=["package.module:ATTACK"]`, `seed`, `output`, and those of the attacks.

    Raises:
        UserError: one is not allowed, or nothing there can be attacked.
    """
    from simulations.attack.registry import attack_specs, effort  # noqa: PLC0415 - as above
    from simulations.attack.run import AttackRequest, attack_run  # noqa: PLC0415

    paths = settings.get("attacks", ())
    if isinstance(paths, str) or not isinstance(paths, list | tuple):
        raise SettingError("attacks", paths, "a list of package.module:ATTACK")
    specs = attack_specs(paths)
    request = _command_settings("attack", {"run": str(folder), **settings}, effort(specs))
    return attack_run(AttackRequest.of(request, specs), Console(highlight=False))


def report(*folders: Path | str, output: Path | str) -> Path:
    """Compare the finished runs in and below some folders, as `python -m simulations.report` does; the page's path.

    Raises:
        UserError: there is none, or one cannot be read.
    """
    from simulations.report.page import write_report  # noqa: PLC0415 - as above

    return write_report([Path(folder).absolute() for folder in folders], Path(output).absolute())


def _public(settings: Mapping[str, object]) -> dict[str, object]:
    return {name.replace("__", "."): value for name, value in settings.items()}


def _command_settings(
    command: str, overrides: Mapping[str, object], further: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """The settings of a command, with its defaults for what is not given.

    Raises:
        SettingError: it has no such setting.
    """
    from omegaconf import OmegaConf  # noqa: PLC0415 - as above

    from simulations.cli import CONF  # noqa: PLC0415

    defaults: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{command}.yaml"))
    settings: dict[str, Any] = {name: value for name, value in defaults.items() if name not in ("defaults", "hydra")}
    settings.update(further or {})
    for name, value in overrides.items():
        if name not in settings:
            raise SettingError(name, value, f"no such setting of {command}; it has {', '.join(settings)}")
    return {**settings, **overrides}
