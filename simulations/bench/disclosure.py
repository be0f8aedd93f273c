"""What an upload discloses, cut by cut, without a run: the columns of the leakage card that need no trained network.

    python -m simulations.bench.disclosure dataset=mnist dataset_path=/data diffusion.timesteps=1000

One client holds all images; what it would train on are the candidates (at most 10,000), and the attacker's images are
those that are held out. Beside `cuts`, `releases` and `output` any setting of a run may be given. The table is
Markdown; as JSON it goes to `output`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.core.errors import SettingError, UserError
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.data.federated import federation_data
from collafuse_flwr.data.images import normalize, subsample_evenly
from collafuse_flwr.diffusion.schedule import make_schedule
from collafuse_flwr.evaluation.image_similarity import image_similarity
from collafuse_flwr.privacy.accounting import epsilon, release_mu
from collafuse_flwr.privacy.attacks.wiener import Wiener
from collafuse_flwr.privacy.leakage_bounds import covariance_eigenvalues, gaussian_bits, snr_db, wiener_psnr
from collafuse_flwr.privacy.reidentification import MAX_TARGETS, reidentification_rate
from collafuse_flwr.runs.reidentification import candidate_set
from collafuse_flwr.setup.privacy import clip, norm_bound
from simulations.cli import complain, flat_settings

DEFAULTS = {
    "num_supernodes": 1,
    "partition": "iid",
    "cuts": "0.2,0.5,0.6,0.7,0.8,0.9",
    "releases": "1,20,500",
    "output": "",
}


@dataclass(frozen=True, eq=False)
class Images:
    """The candidates, and what an attacker has learnt of such images from its own."""

    config: Config
    candidates: Tensor
    wiener: Wiener
    eigenvalues: Tensor

    def at(self, cut: float, releases: list[int]) -> dict[str, float]:
        """What releases at a cut disclose: bits and reconstruction of one, re-identification by several."""
        config, seed = self.config, self.config.run.seed
        schedule = make_schedule(config.diffusion.schedule, config.diffusion.timesteps)
        step = round(cut * schedule.timesteps)
        alpha_bar, snr = float(schedule.alpha_bar[step]), float(schedule.snr()[step])
        x_0 = subsample_evenly(self.candidates, MAX_TARGETS)
        noise = torch.randn(x_0.shape, generator=named_generator(seed, "wiener", step))
        x_k = alpha_bar**0.5 * x_0 + (1 - alpha_bar) ** 0.5 * noise
        mu, everyone = release_mu(snr, norm_bound(config, x_0[0].numel())), torch.arange(len(self.candidates))
        row = {
            "cut": cut,
            "snr_db": snr_db(alpha_bar),
            "bits": gaussian_bits(snr, self.eigenvalues),
            "psnr_closed_form": wiener_psnr(snr, self.eigenvalues),
            "psnr_wiener": image_similarity(x_0, self.wiener.rebuild(x_k, alpha_bar).clamp(-1, 1)).psnr,
        }
        for n in releases:
            drawn = named_generator(seed, "reid", n)
            row[f"reid_{n}"] = reidentification_rate(self.candidates, everyone, alpha_bar, releases=n, generator=drawn)
        return row | {"dp_mu": mu, "dp_epsilon": epsilon(mu, config.dp.delta)}


def measure(config: Config, cuts: list[float], releases: list[int]) -> dict[str, Any]:
    """A row of numbers for each cut, the number of candidates, and what a guess would reach."""
    data = federation_data(config.data, 1, config.run.seed)
    (rows,) = candidate_set(data)
    candidates, shadows = (
        clip(config, normalize(data.images.images[own])) for own in (rows, data.partitions[0].held_out)
    )
    images = Images(config, candidates, Wiener.of(shadows), covariance_eigenvalues(candidates, len(candidates)))
    x_0 = subsample_evenly(candidates, MAX_TARGETS)
    psnr = image_similarity(x_0, shadows.mean(dim=0).expand_as(x_0)).psnr
    return {
        "candidates": len(candidates),
        "shadows": len(shadows),
        "guess": {"bits": 0.0, "psnr": psnr, "reid": 1 / len(candidates)},
        "cuts": [images.at(cut, releases) for cut in cuts],
    }


def markdown(measured: dict[str, Any]) -> str:
    """The rows as a table, the last of which is that of a guess."""
    names = list(measured["cuts"][0])
    guess = measured["guess"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    lines += [f"| {' | '.join(f'{row[name]:.3g}' for name in names)} |" for row in measured["cuts"]]
    last = [next((f"{value:.3g}" for key, value in guess.items() if name.startswith(key)), "") for name in names]
    return "\n".join([*lines, f"| guess among {measured['candidates']} | {' | '.join(last[1:])} |"])


def main(arguments: list[str]) -> int:
    """Measure, show and keep the table, and return the exit status."""
    settings = DEFAULTS | flat_settings(OmegaConf.from_cli(arguments))
    own = {name: str(settings.pop(name)) for name in ("cuts", "releases", "output")}
    try:
        requested = _numbers("cuts", own["cuts"], float), _numbers("releases", own["releases"], int)
        measured = measure(Config.from_flat(settings), *requested)
    except UserError as error:
        return complain(error)
    print(markdown(measured))
    if own["output"]:
        write_json(Path(own["output"]), measured | {"settings": settings})
    return 0


def _numbers(name: str, text: str, kind: Any) -> list[Any]:
    try:
        parsed = [kind(part) for part in text.split(",")]
    except ValueError:
        parsed = []
    most = 1 if kind is float else sys.maxsize
    if not parsed or not all(0 < number <= most for number in parsed):
        raise SettingError(name, text, "numbers above 0, separated by commas; cuts at most 1")
    return parsed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
