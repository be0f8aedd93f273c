"""What a hub shows of an exported pipeline: data, cut, disclosure, attacks and quality, from the files of its run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from collafuse_flwr import __version__
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.text import number_of
from collafuse_flwr.data.settings import NO_DATASET
from collafuse_flwr.diffusion.pipeline import CollaFusePipeline
from collafuse_flwr.runs.dp_report import describe_guarantee, describe_updates
from collafuse_flwr.runs.metrics import metrics_of
from collafuse_flwr.runs.run_dir import read_config
from collafuse_flwr.runs.run_layout import RunLayout
from simulations.attack.registry import built_in
from simulations.attack.spec import NETWORKS, REBUILT, RECEIVED, AttackSpec

#: Who is meant by a claim.
SERVER = "a server that keeps to the protocol, and looks"
HOLDER = "whoever has the networks"
#: Who makes the attacks of each table; of others' tables it is not known, and they are left out.
ATTACKERS = {RECEIVED: SERVER, REBUILT: SERVER, NETWORKS: HOLDER}
#: Numbers of the summary that tables say of what was released, with their digits and what nothing would give.
DISCLOSURE = {
    "snr_db": ("signal-to-noise ratio of what was released, in dB", ".1f", "-"),
    "bits": ("bits that it tells of an image at most, by the covariance of the data", ".1f", "0"),
    "dp_epsilon": ("epsilon of the releases of one image", ".3g", "0"),
    "reid": ("share of uploads that are matched to their images", ".3f", "reid_chance"),
}
#: What attacks.json holds beside their settings.
RESULTS = ("run", "strategy", "clients", "columns")
QUALITY = ("fd", "tstr", "fid", "kid", "clip_fid")

Row = Mapping[str, Any]


def model_card(folder: Path, client: int, pipeline: CollaFusePipeline, place: str) -> str:
    """What a run measured of a client's pipeline, in Markdown under a header of YAML, as hubs want it."""
    config, layout = read_config(folder, "run"), RunLayout(folder)
    summary: dict[str, Any] = json.loads(layout.summary.read_text())
    (row,) = [own for own in summary["clients"] if own["client"] == client]
    attacked = json.loads(layout.attack_results.read_text()) if layout.attack_results.is_file() else {"clients": []}
    attacks = [entry for own in attacked["clients"] if own["client"] == client for entry in _attacks(own)]
    header = {
        # Not diffusers, which could load its parts alone.
        "library_name": "collafuse_flwr",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["diffusers", "diffusion", "federated-learning", "split-learning", "flower"],
    }
    environment = Environment(
        loader=PackageLoader("simulations", "."), undefined=StrictUndefined, trim_blocks=True, autoescape=False
    )
    data = " and ".join(config.data.dataset)
    return environment.get_template("model_card.md").render(
        header=yaml.safe_dump(header, sort_keys=False),
        title=f"{config.spec.name} on {data}: client {client}",
        strategy=config.spec.name,
        about=config.spec.about,
        steps=config.diffusion.timesteps,
        cut=pipeline.config.cut_step,
        clients=len(summary["clients"]),
        client=client,
        shared=", averaged with those of others" if "weights" in config.spec.sends else "",
        place=place,
        labels=", class_labels=0" if pipeline.config.class_names else "",
        data=_data(config, data, row, pipeline),
        sent=_sent(config, row),
        disclosure=_disclosure(row),
        guarantee=_guarantee(config, row),
        networks=_networks(config, row, pipeline),
        attacks=[entry for _, entry in attacks],
        explained=" ".join(dict.fromkeys(spec.about for spec, _ in attacks)),
        effort=", ".join(f"`{name}` = {value}" for name, value in attacked.items() if name not in RESULTS),
        quality=_quality(summary, row),
        samples=row.get("num_samples"),
        held_out=row.get("num_held_out"),
        seed=config.run.seed,
        version=__version__,
    )


def _data(config: Config, name: str, row: Row, pipeline: CollaFusePipeline) -> list[str]:
    channels, side, _ = pipeline.image_shape
    held, names = f"{row['num_images']} training images of this client", pipeline.config.class_names
    lines = [f"{name}: {channels} x {side} x {side}; {held}, dealt by `{config.data.partition}`"]
    if pipeline.vae is not None:
        lines.append("these are latents, which the pipeline decodes by a public autoencoder, its `vae`")
    if names:
        lines.append(f"{config.data.conditioning}, as `class_labels` counts them: {', '.join(names)}")
    process = f"schedule `{config.diffusion.schedule}`, networks predict `{config.diffusion.prediction_type}`"
    cut, steps, handover = row["cut_step"], config.diffusion.timesteps, pipeline.config.cut_step
    lines.append(f"cut at step {cut} of {steps} ({cut / steps:.0%}); {process}")
    if handover != cut:
        lines.append(f"the client takes over at step {handover}, {'above' if handover > cut else 'below'} its cut")
    if config.public.dataset != NO_DATASET:
        lines.append(f"the server trained on public images besides, `{config.public.dataset}`")
    if config.diffusion.start_from:
        lines.append(
            f"both networks started from one that was trained before, `{Path(config.diffusion.start_from).name}`"
        )
    return lines


def _sent(config: Config, row: Row) -> str:
    """What a client of the run sent, in words."""
    sent = []
    if "images" in config.spec.sends and row["releases"] != 0:
        clean = config.spec.clean_server or row["cut_step"] == 0
        releases = f"{number_of(row['releases'], 'release')} of each image, noised"
        sent.append("clean images" if clean else releases)
        if config.shares_labels():
            sent.append("their labels")
    if "weights" in config.spec.sends:
        sent.append("weights of its network")
    return ", ".join(sent) or "nothing that is made of its images, beside numbers"


def _disclosure(row: Row) -> list[tuple[str, str, str, str]]:
    """What was released, by what is known of it, and against whom that holds."""
    low = " (an underestimate: its images are few)" if row.get("bits_underestimated") else ""
    return [
        (about + low * (key == "bits"), f"{row[key]:{form}}", f"{row[least]:.3f}" if least in row else least, SERVER)
        for key, (about, form, least) in DISCLOSURE.items()
        if row.get(key) is not None
    ]


def _guarantee(config: Config, row: Row) -> str:
    released, updates = describe_guarantee(config, dict(row)), describe_updates(config, dict(row))
    if not released and not updates:
        return "Differential privacy: nothing is guaranteed for what was released, against any adversary."
    return " ".join(filter(None, (released and f"Against {SERVER}, whatever else it knows: {released}", updates)))


def _networks(config: Config, row: Row, pipeline: CollaFusePipeline) -> str:
    """What is guaranteed for a client's network, which is here for everybody to read."""
    if pipeline.denoiser is None:
        return "The client has no network here."
    if row.get("dp_sgd_epsilon") is None:
        return (
            "The denoiser was trained on the client's images without differential privacy: nothing is guaranteed for "
            f"them against {HOLDER}, and that is everybody who has this folder."
        )
    epsilon = f"epsilon {row['dp_sgd_epsilon']:.3g} at delta {config.dp.delta:g}"
    return f"The denoiser was trained by DP-SGD: {epsilon} for an image, against {HOLDER}."


def _attacks(row: Row) -> list[tuple[AttackSpec, tuple[str, str, str, str]]]:
    """What attacks achieved, with its error, beside what they would without information."""
    entries = []
    for spec in built_in():
        for column in spec.columns:
            key, least = column.key, _shown(row, column.chance, column.form)
            if spec.table in ATTACKERS and key not in DISCLOSURE and row.get(key) is not None and least:
                error = f" ± {row[f'{key}_error']:.2f}" if f"{key}_error" in row else ""
                title, value = column.title or column.heading, _shown(row, key, column.form) + error
                entries.append((spec, (title, value, least, ATTACKERS[spec.table])))
    return entries


def _shown(row: Row, key: str, form: str) -> str:
    return "" if row.get(key) is None else f"{row[key]:{form}}"


def _quality(summary: Mapping[str, Any], row: Row) -> list[tuple[str, str, str, str]]:
    """Measures of the client's samples, others' metrics among them."""
    wanted = {*QUALITY, *(metric["key"] for metric in summary.get("metrics", ()))}
    shown = [metric for metric in metrics_of(dict(summary)) if metric.key in wanted and row.get(metric.key) is not None]
    return [
        (
            metric.heading,
            _shown(row, metric.key, f".{metric.digits or 3}f"),
            _shown(summary["pooled"], f"{metric.key}_real", f".{metric.digits or 3}f") or "-",
            metric.better,
        )
        for metric in shown
    ]
