"""The clients' pipelines in a run's folder: indexes that name the networks where they are, no second copy of any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from collafuse_flwr.config.config import Config
from collafuse_flwr.data.codec import codec_folder
from collafuse_flwr.data.images import ImageSet
from collafuse_flwr.diffusion.schedulers import Sampler, saved_solver
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.setup.diffusion import diffusion_setup


def write_pipelines(config: Config, layout: RunLayout, clients: list[int], images: ImageSet) -> None:
    """Write an index into the folder of every client, by which `CollaFusePipeline` loads it with the backbone.

    It is for simulations, where one disk holds the networks of both sides. None is written for a client that has not
    come to an evaluation, nor where a network is of a class that diffusers does not have.
    """
    if not config.spec.is_gan:
        for client in clients:
            _write_pipeline(config, layout, client, images)


def _write_pipeline(config: Config, layout: RunLayout, client: int, images: ImageSet) -> None:
    # Slow to import, and a deployed client, which imports this package, needs it not.
    from collafuse_flwr.diffusion.pipeline import save_index  # noqa: PLC0415

    own, setup = layout.client(client), diffusion_setup(config)
    if not own.trained.is_file():
        return
    # That of the network, which may have moved its cut since.
    trained = json.loads(own.trained.read_text())
    cut = int(trained["client_info"]["cut_step"])
    handover = int(trained.get("handover_step", setup.handover_step(cut)))
    networks: dict[str, Path | None] = {
        "backbone": layout.backbone / "unet" if handover < config.diffusion.timesteps else None,
        "denoiser": own.denoiser / "unet" if handover else None,
    }
    if config.data.codec:
        networks["vae"] = codec_folder(config.data.codec)
    if not all((folder / "config.json").is_file() for folder in networks.values() if folder):
        return
    names = {"classes": images.class_names, "attributes": images.metadata.attribute_names}
    save_index(
        own.folder,
        networks,
        saved_solver(setup.schedule, cast(Sampler, config.sampling.sampler), setup.objective.prediction),
        # Where the network changes.
        cut_step=handover,
        class_names=list(names.get(config.data.conditioning, ())),
        client_start_step=setup.client_grid(cut, handover)[0],
        server_steps=len(setup.grids(handover)[0]) - 1 if networks["backbone"] else 0,
        client_steps=len(setup.client_grid(cut, handover)) - 1,
        guidance_scale=config.sampling.guidance_scale,
        null_label=setup.null_label,
    )
