"""A run's networks as a pipeline of diffusers, and as a folder that can be pushed to a hub."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.diffusion.pipeline import CollaFusePipeline
from collafuse_flwr.runs.loaded_run import refuse_gan
from collafuse_flwr.runs.run_dir import open_config
from collafuse_flwr.runs.run_layout import RunLayout
from simulations.model_card import model_card


def load_pipeline(folder: Path, client: int) -> CollaFusePipeline:
    """The backbone and a client's denoiser of a finished run, as a pipeline of diffusers.

    Raises:
        SettingError: there is no such client, or no networks that diffusers can load.
    """
    config = open_config(folder, "run")
    refuse_gan(config, folder)
    if not 0 <= client < config.run.num_supernodes:
        raise SettingError("client", client, f"0..{config.run.num_supernodes - 1}, the clients of the run")
    own = RunLayout(folder).client(client).folder
    if not (own / CollaFusePipeline.config_name).is_file():
        allowed = f"a run with networks of diffusers' classes (no {CollaFusePipeline.config_name} in {own})"
        raise SettingError("run", str(folder), allowed)
    return CollaFusePipeline.from_pretrained(own)


def export(folder: Path, client: int, output: Path) -> Path:
    """Write a client's pipeline with its model card, README.md; the whole folder, or nothing.

    Raises:
        SettingError: as `load_pipeline`, or `output` is there and not empty.
    """
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise SettingError("output", str(output), "a new or empty folder")
    pipeline = load_pipeline(folder, client)
    temporary = output.with_name(f".unfinished-{secrets.token_hex(8)}")
    try:
        pipeline.save_pretrained(temporary)
        (temporary / "README.md").write_text(model_card(folder, client, pipeline, output.name))
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return output
