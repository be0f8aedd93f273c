"""Mistakes that are found before a run starts anything."""

from __future__ import annotations

from collafuse_flwr.client.cut_policies import work_unit
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.conditioning import num_attributes
from collafuse_flwr.data.federated import federation_data
from collafuse_flwr.data.images import normalize
from collafuse_flwr.evaluation.pretrained import pretrained_networks
from collafuse_flwr.runs.metrics import further_metrics
from collafuse_flwr.runs.tracker import check_tracker
from collafuse_flwr.setup.diffusion import diffusion_setup
from collafuse_flwr.setup.gan import build_gan_architecture
from collafuse_flwr.setup.gan_cuts import select_cuts
from collafuse_flwr.setup.privacy import choose_cut
from collafuse_flwr.setup.round_cost import largest_cut_within_time

#: Images that others' metrics are tried on.
TRIED = 16


def preflight(config: Config) -> None:
    """Find mistakes before anything is started: load the images, deal them, build the networks and read weights.

    Raises:
        UserError: there is one.
    """
    data = federation_data(config.data, config.run.num_supernodes, config.run.seed)
    setup, (_, channels, size, _) = diffusion_setup(config), data.images.images.shape
    conditioning = data.images.num_classes, num_attributes(config.data.conditioning, data.images)
    if config.spec.is_gan:
        select_cuts(config, build_gan_architecture(config, channels, size, conditioning[0]))
    else:
        try:
            setup.backbone(channels, size, *conditioning)
            setup.denoiser(0, channels, size, *conditioning)
        except SettingError as error:
            if not config.data.codec or error.name != "image_size":
                raise
            allowed = f"one that halves the latents of {size} x {size} of `codec` less often"
            raise SettingError("model", config.diffusion.model, allowed) from error
    pretrained_networks(config.evaluation)
    some = normalize(data.images.pixels[:TRIED]), data.images.labels[:TRIED]
    for metric in further_metrics(config):
        metric.of(some, some)
    check_tracker(config)
    if config.run.attack:
        from simulations.attack.run import check_attack  # noqa: PLC0415 - slow, and few runs are attacked

        check_attack(config, data)
    target = config.cut_target()
    if target is not None and target[0] in {"snr_db", "epsilon"}:
        # Any images do: these targets do not depend on them. For the others every client finds its own cut.
        choose_cut(config, setup.schedule, normalize(data.images.images[:2]), 0)
    if config.cut.policy == "by_device":
        unit = work_unit(config, setup, data.images)
        for client, own in enumerate(data.partitions):
            largest_cut_within_time(config, unit, len(own.train), client)
