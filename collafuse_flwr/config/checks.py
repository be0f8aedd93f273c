"""Settings that are fine alone but not together."""

from __future__ import annotations

import math

from collafuse_flwr.config.config import Config
from collafuse_flwr.config.gan_checks import check_gan
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.sequential_halving import SequentialHalving, fewest_pulls
from collafuse_flwr.data.settings import NO_DATASET, background, check_read, missing_classes, size_skew, slices, window
from collafuse_flwr.privacy.settings import CRITERIA, MIN_CLIP_NORM, MIN_NOISE_MULTIPLIER


def check_together(config: Config) -> None:
    """Refuse settings that are fine alone but not together.

    Raises:
        SettingError: one of them, with what the others allow.
    """
    _check_target(config)
    _check_cuts(config)
    if config.recuts():
        _check_adaptive(config)
    _check_uploads(config)
    devices = config.client_devices()
    if config.cut.policy == "by_device" and not devices:
        allowed = "another one unless `devices.profiles` lists the clients' devices"
        raise SettingError("cut.policy", "by_device", allowed)
    if config.spec.is_gan:
        check_gan(config)
    if config.data.codec and config.train.random_hflip:
        raise SettingError("train.random_hflip", True, "false when `codec` is set: no image has mirrored latents")
    _check_starts(config)
    _check_deconvolution(config)
    _check_baseline(config)
    check_read(config.data)
    background(config.data)
    window(config.data)
    slices(config.data)
    missing_classes(config.data)
    size_skew(config.data)
    n, least = config.run.num_supernodes, config.federation.min_available_nodes
    if least > n:
        raise SettingError("federation.min_available_nodes", least, f"at most `num_supernodes` = {n}")
    if config.client.start_round > config.run.num_rounds:
        allowed = f"at most `num_rounds` = {config.run.num_rounds}, or clients would never train"
        raise SettingError("client.start_round", config.client.start_round, allowed)
    if 0 < config.dp.noise_multiplier < MIN_NOISE_MULTIPLIER:
        raise SettingError("dp.noise_multiplier", config.dp.noise_multiplier, f"0, or >= {MIN_NOISE_MULTIPLIER:g}")
    if config.dp.noise_multiplier and config.spec.clean_server:
        allowed = f"0 when `strategy` is {config.run.strategy}, whose server sees clean images"
        raise SettingError("dp.noise_multiplier", config.dp.noise_multiplier, allowed)
    _check_averaging(config)
    check_guidance(config, config.sampling.guidance_scale)


def _check_averaging(config: Config) -> None:
    """Refuse noise on what has no bound or no common start, and fine-tuning that DP-SGD would have to count."""
    own = config.averaging
    if 0 < own.clip_norm < MIN_CLIP_NORM:
        raise SettingError("averaging.clip_norm", own.clip_norm, f"0, or >= {MIN_CLIP_NORM:g}")
    if own.noise != "none" and not own.clip_norm:
        raise SettingError("averaging.clip_norm", own.clip_norm, f"above 0 when `averaging.noise` is {own.noise}")
    if own.clip_norm and config.train.match == "traffic":
        # Weights come in some rounds only, and an update of several rounds has no start that all have.
        raise SettingError("train.match", "traffic", "another one when `averaging.clip_norm` is above 0")
    if own.finetune_epochs and config.dp.noise_multiplier:
        allowed = f"0 when `dp.noise_multiplier` = {config.dp.noise_multiplier:g}"
        raise SettingError("averaging.finetune_epochs", own.finetune_epochs, allowed)


def _check_trained_parts(config: Config) -> None:
    """Refuse parts that would keep random weights."""
    client, last = config.client, config.diffusion.timesteps
    same = client.model in {"same", config.diffusion.model}
    of_backbone = config.cut.policy == "fixed" and all(0 < step < last for step in config.cut_steps())
    from_backbone = same and of_backbone and client.init_from == "backbone"
    if client.trained_parts != "all" and not config.diffusion.start_from and not from_backbone:
        allowed = (
            "all unless `start_from` is set, or clients have fixed cuts and start from a backbone of their network"
        )
        raise SettingError("client.trained_parts", client.trained_parts, allowed)
    if client.trained_parts != "all" and config.averaging.noise != "none":
        # What is not trained would be noised as well, and averaged.
        allowed = f"all when `averaging.noise` is {config.averaging.noise}"
        raise SettingError("client.trained_parts", client.trained_parts, allowed)


def _check_starts(config: Config) -> None:
    """Refuse public images, or a start, that would not reach the networks, and a hand-over to untrained ones."""
    public, client = config.public, config.client
    if public.dataset == NO_DATASET:
        for name, value in (("public.dataset_path", public.dataset_path), ("public.max_images", public.max_images)):
            if value:
                raise SettingError(name, value, f"its default when `public.dataset` is {NO_DATASET}")
    if config.diffusion.start_from and client.model not in {"same", config.diffusion.model}:
        raise SettingError("client.model", client.model, "same when `start_from` names the start of all networks")
    _check_trained_parts(config)
    if config.sampling.handover == "best" and config.upload.noise == "official":
        # There clients start beyond their cut, at what no step of the chain hands over.
        raise SettingError("sampling.handover", "best", "fixed when `upload.noise` is official")
    if config.server.holdout_fraction and config.upload.noise != "fixed":
        # Copies of what is held out would come in other rounds, or be noised twice.
        allowed = f"0 when `upload.noise` is {config.upload.noise}"
        raise SettingError("server.holdout_fraction", config.server.holdout_fraction, allowed)
    if config.server.holdout_fraction and config.upload.draws_per_image > 1:
        # Nobody but the client knows which rows are copies of one image.
        allowed = f"0 when `upload.draws_per_image` = {config.upload.draws_per_image}"
        raise SettingError("server.holdout_fraction", config.server.holdout_fraction, allowed)
    if config.data.codec.startswith("sha256:") and public.dataset != NO_DATASET:
        raise SettingError("public.dataset", public.dataset, "none when `codec` is sha256:...: the server has no codec")
    ratio = config.sampling.handover_ratio
    least = min(config.cuts_of(client)[0] for client in range(config.run.num_supernodes)) if ratio else 0
    if round(ratio * config.diffusion.timesteps) < least or (ratio and config.upload.noise == "official"):
        allowed = "0, or a share of T above the cut, when `upload.noise` is not official"
        raise SettingError("sampling.handover_ratio", ratio, allowed)


def _check_deconvolution(config: Config) -> None:
    """Refuse to denoise uploads that are not noised, or not by one path, and where no round is left for it."""
    own, steps = config.deconvolution, config.diffusion.timesteps
    if not own.iterations:
        if own.sampling_steps:
            allowed = "0 when `deconvolution.iterations` is 0"
            raise SettingError("deconvolution.sampling_steps", own.sampling_steps, allowed)
        return
    uploads = (0 < cut < steps for client in range(config.run.num_supernodes) for cut in config.cuts_of(client))
    allowed = ""
    if not any(uploads):
        allowed = "0 when no client uploads at a cut above 0"
    elif config.upload.noise == "official":
        # What it noises twice is at no step of the chain.
        allowed = "0 when `upload.noise` is official"
    elif config.server.holdout_fraction:
        # Held-out uploads measure the steps above their cuts alone.
        allowed = f"0 when `server.holdout_fraction` = {config.server.holdout_fraction:g}"
    elif own.iterations >= config.run.num_rounds:
        allowed = f"less than `num_rounds` = {config.run.num_rounds}: there is one in a round, and none in the first"
    if allowed:
        raise SettingError("deconvolution.iterations", own.iterations, allowed)


def _check_baseline(config: Config) -> None:
    """Refuse to hold a run against training alone that has no diffusion, no training of clients, or nothing else."""
    if config.run.baseline == "none":
        return
    if config.spec.is_gan or config.run.strategy == "local" or config.spec.fixed_cut == 0:
        allowed = f"none when `strategy` is {config.run.strategy}"
        raise SettingError("baseline", config.run.baseline, allowed)
    if not any(cut for client in range(config.run.num_supernodes) for cut in config.cuts_of(client)):
        raise SettingError("baseline", config.run.baseline, "none where no client trains, as every cut is 0")


def check_guidance(config: Config, guidance: float) -> None:
    """Refuse guidance by networks that are not conditioned, or were never trained without their condition.

    Raises:
        SettingError: `sampling.guidance_scale` is not 1 all the same.
    """
    if guidance != 1 and config.data.conditioning == "none":
        raise SettingError("sampling.guidance_scale", guidance, "1 when `data.conditioning` is none")
    if guidance != 1 and not config.train.cfg_dropout:
        allowed = "1 when `train.cfg_dropout` is 0: the networks know no dropped condition"
        raise SettingError("sampling.guidance_scale", guidance, allowed)


def _check_target(config: Config) -> None:
    """Refuse targets out of range, and a policy that has none."""
    cut = config.cut
    if cut.policy == "by_disclosure" and cut.criterion == "none":
        allowed = f"one of {', '.join(CRITERIA)} when `cut.policy` is by_disclosure"
        raise SettingError("cut.criterion", cut.criterion, allowed)
    if cut.policy == "by_device" and not cut.target > 0:
        raise SettingError("cut.target", cut.target, "a number above 0 when `cut.policy` is by_device")
    if cut.criterion == "none":
        return
    low, high = CRITERIA[cut.criterion]
    if not low < cut.target <= high:
        bounds = f"a number above {low:g}" + (f" and at most {high:g}" if high < math.inf else "")
        raise SettingError("cut.target", cut.target, f"{bounds} when `cut.criterion` is {cut.criterion}")


def _check_adaptive(config: Config) -> None:
    """Refuse what clients cannot move between, or not in so many rounds, and what a moved cut would not fit."""
    cut, steps = config.cut, config.diffusion.timesteps
    moves = [round(c * steps) for c in cut.choices]
    if len(moves) < 2 or len(set(moves)) < len(moves) or not all(0 < k < steps for k in moves):
        allowed = f"at least two numbers above 0 and below 1 that are different cuts of {steps} steps"
        raise SettingError("cut.choices", list(cut.choices), allowed)
    least, budget = fewest_pulls(len(moves)), cut.exploration_rounds
    if 0 < budget < least:
        raise SettingError("cut.exploration_rounds", budget, f"0, or at least {least}, to try {len(moves)} cuts")
    trying = cut.warmup_rounds + SequentialHalving.over(len(moves), budget).pulls()
    if trying > config.run.num_rounds:
        allowed = f"at least {trying} when `cut.policy` is adaptive: its warm-up and exploration"
        raise SettingError("num_rounds", config.run.num_rounds, allowed)
    if config.upload.noise != "fixed":
        # On paths of their own, uploads at every cut would be further releases.
        raise SettingError("upload.noise", config.upload.noise, "fixed when `cut.policy` is adaptive")
    if config.spec.shared_parts:
        # What others trained would be counted as this client's gain.
        allowed = f"another one when `strategy` is {config.run.strategy}, which averages denoisers"
        raise SettingError("cut.policy", "adaptive", allowed)


def _check_cuts(config: Config) -> None:
    """Refuse lists that are not one cut per client, and cuts that would upload clean images without saying so."""
    ratios, n = config.cut.client_ratios, config.run.num_supernodes
    if ratios and (len(ratios) != n or not all(0 <= c <= 1 for c in ratios)):
        raise SettingError("cut.client_ratios", list(ratios), f"{n} numbers in [0, 1], one per client")
    smallest = 0.5 / config.diffusion.timesteps
    for ratio in config.cut_ratios():
        if ratio > 0 and round(ratio * config.diffusion.timesteps) == 0:
            name = "cut.client_ratios" if ratios else "cut_ratio"
            allowed = f"0, or more than {smallest:g}: less than a step would upload clean images"
            raise SettingError(name, ratio, allowed)


def _check_uploads(config: Config) -> None:
    """Refuse more draws of noise than there may be."""
    draws, most = config.upload.draws_per_image, config.upload.max_releases
    if config.upload.noise == "official" and draws > 1:
        raise SettingError("upload.draws_per_image", draws, "1 when `upload.noise` is official")
    if 0 < most < draws:
        raise SettingError("upload.max_releases", most, f"0, or at least `upload.draws_per_image` = {draws}")
