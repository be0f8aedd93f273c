"""The diffusion process that settings describe."""

from __future__ import annotations

from typing import cast

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.runtime import choose_runtime
from collafuse_flwr.diffusion.loss import Objective, Weighting
from collafuse_flwr.diffusion.parametrization import Prediction
from collafuse_flwr.diffusion.schedule import make_schedule
from collafuse_flwr.diffusion.setup import DiffusionSetup


def diffusion_setup(config: Config) -> DiffusionSetup:
    """The process that the settings describe.

    Raises:
        SettingError: there is no such device.
    """
    process, model = config.diffusion, config.diffusion.model
    prediction = cast(Prediction, process.prediction_type)
    return DiffusionSetup(
        schedule=make_schedule(process.schedule, process.timesteps),
        objective=Objective(prediction, cast(Weighting, config.train.loss_weighting), config.train.min_snr_gamma),
        sampling=config.sampling,
        runtime=choose_runtime(config.run.device, config.run.precision),
        seed=config.run.seed,
        backbone_model=model,
        client_model=model if config.client.model == "same" else config.client.model,
        trained_parts=config.client.trained_parts,
        conditioning=config.data.conditioning,
        null_label=bool(config.train.cfg_dropout),
        shares_labels=config.upload.share_labels,
        official_start=config.upload.noise == "official",
    )
