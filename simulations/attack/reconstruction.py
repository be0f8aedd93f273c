"""Reconstruction of a client's images from all that was received of them, by every attack."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from collafuse_flwr.evaluation.image_similarity import image_similarity
from collafuse_flwr.privacy.attacks.denoiser_reconstruction import continue_sampling, equivalent_release, predict_x0
from collafuse_flwr.privacy.leakage_bounds import covariance_eigenvalues, wiener_psnr
from collafuse_flwr.runs.loaded_run import FinishedRun
from simulations.attack.server_view import ServerView
from simulations.attack.shadow_models import ShadowAttacker

#: Images of the picture.
SHOWN = 12


@dataclass(frozen=True, eq=False)
class BestReconstructions:
    """The images of a client that are reconstructed best: the PSNR of each in dB, and rows of images by name."""

    psnr: Tensor
    rows: dict[str, Tensor]


def rebuild(
    run: FinishedRun, seen: ServerView, cut: int, backbone: nn.Module | None, shadow: ShadowAttacker
) -> tuple[dict[str, float | None], BestReconstructions]:
    """PSNR and SSIM of every reconstruction, those of the mean shadow image (no information), and the worst images.

    `upload` is what was received as it is, scaled; `backbone` continues the chain below the cut with a network that
    was never trained there, `predict_x0` is its estimate at the cut, and `shadow` a denoiser of the attacker's own. The
    last three need a cut above 0: nothing is left to be denoised in a clean image.
    """
    alpha_bar = float(run.setup.schedule.alpha_bar[cut])
    rebuilt = {
        "upload": seen.mean / math.sqrt(alpha_bar),
        "wiener": shadow.wiener.rebuild(seen.mean, alpha_bar, seen.releases),
        **(_denoised(run, seen, cut, backbone, shadow) if cut else {}),
    }
    rebuilt = {name: images.clamp(-1, 1) for name, images in rebuilt.items()}
    guess = image_similarity(seen.x_0, shadow.images.mean(dim=0).expand_as(seen.x_0))
    measured = {name: image_similarity(seen.x_0, images) for name, images in rebuilt.items()}
    snr = alpha_bar / (1 - alpha_bar) if cut else math.inf
    numbers: dict[str, float | None] = {"psnr_chance": guess.psnr, "ssim_chance": guess.ssim}
    for name, fidelity in measured.items():
        numbers |= {f"psnr_{name}": fidelity.psnr, f"ssim_{name}": fidelity.ssim}
    numbers["psnr_wiener_closed_form"] = wiener_psnr(snr, covariance_eigenvalues(seen.x_0), releases=seen.releases)
    best = torch.stack([fidelity.per_image for fidelity in measured.values()]).amax(dim=0)
    worst = best.argsort(descending=True)[:SHOWN]
    shown = {"original": seen.x_0, "received": seen.last} | {n: i for n, i in rebuilt.items() if n != "upload"}
    return numbers, BestReconstructions(best[worst], {name: images[worst] for name, images in shown.items()})


def _denoised(
    run: FinishedRun, seen: ServerView, cut: int, backbone: nn.Module | None, shadow: ShadowAttacker
) -> dict[str, Tensor]:
    """Reconstructions of the mean release by denoisers."""
    schedule, prediction = run.setup.schedule, run.setup.objective.prediction
    device = run.setup.runtime.device
    x, step = equivalent_release(schedule, seen.mean, cut, seen.releases)
    x, labels = x.to(device), None if seen.labels is None else seen.labels.to(device)
    rebuilt = {}
    if backbone is not None:
        denoise = run.setup.denoise(backbone.eval())
        rebuilt["backbone"] = continue_sampling(schedule, prediction, denoise, x, step, labels)
        rebuilt["one_step"] = predict_x0(schedule, prediction, denoise, x, step, labels)
    rebuilt["shadow"] = predict_x0(schedule, prediction, shadow.denoiser(step), x, step, labels)
    return {name: images.cpu() for name, images in rebuilt.items()}
