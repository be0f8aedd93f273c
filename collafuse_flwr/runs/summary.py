"""The end of a run: quality measured over all clients' samples, cost and disclosure added up, and pictures.

Pooling the samples of all clients is the experimenter's privilege in a simulation: it reads the clients' folders after
the fact, and is no message. Where those folders are elsewhere (deployment), quality stays what the clients reported.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.atomic_io import as_file_name, write_json
from collafuse_flwr.core.runtime import available_cores, choose_runtime
from collafuse_flwr.core.tensor_io import read_tensors
from collafuse_flwr.data.domains import client_domains
from collafuse_flwr.data.federated import FederationData, federation_data
from collafuse_flwr.data.image_cache import cache_folder
from collafuse_flwr.data.images import ImageSet, normalize
from collafuse_flwr.evaluation.evaluator import SampleEvaluator, Samples
from collafuse_flwr.privacy.leakage_bounds import underestimates_bits
from collafuse_flwr.runs.cluster_report import clusters_by_round, draw_clusters
from collafuse_flwr.runs.cost_report import client_costs, failed_contributions, server_costs, total
from collafuse_flwr.runs.dp_report import dp_guarantees, group_guarantees
from collafuse_flwr.runs.figures import draw_curves, draw_overview, save_grid
from collafuse_flwr.runs.history import read_rounds
from collafuse_flwr.runs.metrics import describe, further_metrics
from collafuse_flwr.runs.pipelines import write_pipelines
from collafuse_flwr.runs.reidentification import reidentification
from collafuse_flwr.runs.run_dir import codec_of, open_config
from collafuse_flwr.runs.run_layout import RunLayout

#: Where the cache has the classifiers of real images.
JUDGES = "classifiers"
#: Columns of the overview picture, and images of a client's grid.
SHOWN = 12
GRID = 100


def summarize_run(folder: Path) -> dict[str, Any]:
    """Measure what the run in a folder produced; write summary.json, the pictures, and indexes of its pipelines."""
    config, layout = open_config(folder), RunLayout(folder)
    rounds = [asdict(row) for row in read_rounds(folder)]
    clients = client_costs(config, rounds)
    data, metrics = simulated_data(config, layout), further_metrics(config)
    pooled: dict[str, Any] = {}
    domains: dict[str, dict[str, Any]] = {}
    domain_of = {} if data is None else client_domains(config.data, data)
    if data is not None:
        device = choose_runtime(config.run.device, config.run.precision).device
        samples = {c["client"]: s for c in clients if (s := _samples(layout, c["client"], data.images)) is not None}
        # Several classifiers on one GPU would be no faster.
        cores = (config.resources.server_threads or available_cores()) if device.type == "cpu" else 1
        cache = cache_folder(config.data) / JUDGES
        evaluator = SampleEvaluator.trained_on(
            data, config.evaluation, device, domain_of, metrics, cache=cache, cores=cores
        )
        pooled, rows, domains = evaluator.measure(samples)
        pooled |= reidentification(config, data, clients)
        for client in clients:
            client.update(rows.get(client["client"], {}))
        _draw(layout, data, samples, domain_of)
        write_pipelines(config, layout, [client["client"] for client in clients], data.images)
    clusters = clusters_by_round(rounds, domain_of)
    values = next((row["values"] for row in rounds), 0)
    for client in clients:
        counted = values and client["bits"] and client["num_images"]
        client["bits_underestimated"] = underestimates_bits(client["num_images"], values) if counted else None
    guarantees = dp_guarantees(config, values, clients) if values else {}
    guarantees |= group_guarantees(config, data, clients) if values else {}
    summary = {
        "pooled": pooled | total(clients) | guarantees,
        "clients": clients,
        **({"domains": domains} if domains else {}),
        **({"clusters": clusters} if clusters else {}),
        **({"metrics": describe(metrics)} if metrics else {}),
        **({"codec": codec_of(folder)} if config.data.codec else {}),
        "server": server_costs(rounds),
        **failed_contributions(rounds),
    }
    write_json(layout.summary, summary)
    draw_curves(rounds, clients, layout.pictures / "curves.png")
    if clusters:
        draw_clusters(rounds, domain_of, layout.pictures / "clusters.png")
    return summary


def simulated_data(config: Config, layout: RunLayout) -> FederationData | None:
    """The federation's images, in a simulation; None where clients hold their own elsewhere."""
    if not layout.clients.is_dir():
        return None
    return federation_data(config.data, config.run.num_supernodes, config.run.seed)


def _samples(layout: RunLayout, client: int, images: ImageSet) -> Samples | None:
    """A client's samples as images, whatever its network makes."""
    path = layout.client(client).samples
    if not path.exists():
        return None
    tensors, _ = read_tensors(path)
    return Samples(images.decode(tensors["images"]), tensors["labels"])


def _draw(layout: RunLayout, data: FederationData, samples: dict[int, Samples], domains: dict[int, str]) -> None:
    """Grids of every client's and domain's samples, and what was handed over beside what the clients made of it."""
    if not samples:
        return
    pictures = layout.pictures
    for client, own in samples.items():
        save_grid(own.images[:GRID], pictures / f"client-{client}.png")
    save_grid(_spread({c: s.images for c, s in samples.items()}, GRID), pictures / "samples.png")
    received = read_tensors(layout.handoffs)[0].items()
    handed = {int(c): data.images.decode(x) for c, x in received if int(c) in samples}
    save_grid(_spread(handed, GRID), pictures / "hand-over.png")
    real = {c: normalize(data.images.pixels[data.partitions[c].held_out[:SHOWN]]) for c in handed}
    shown = [
        ("held-out images", _spread(real, SHOWN)),
        ("the server's hand-over", _spread(handed, SHOWN)),
        ("finished by the clients", _spread({c: samples[c].images for c in handed}, SHOWN)),
    ]
    draw_overview(
        shown,
        pictures / "overview.png",
        f"{data.images.name}: what the server handed over, and what the clients made of it below",
    )
    if domains:
        _draw_domains(pictures, data, samples, domains)


def _draw_domains(pictures: Path, data: FederationData, samples: dict[int, Samples], domains: dict[int, str]) -> None:
    """A grid of each domain's samples, and all domains below each other, with held-out images above the samples."""
    rows: list[tuple[str, Tensor]] = []
    for name in dict.fromkeys(domains[client] for client in sorted(samples)):
        members = [client for client in sorted(samples) if domains[client] == name]
        generated = {client: samples[client].images for client in members}
        save_grid(_spread(generated, GRID), pictures / f"domain-{as_file_name(name)}.png")
        real = {c: normalize(data.images.pixels[data.partitions[c].held_out[:SHOWN]]) for c in members}
        rows += [(f"{name}, held out", _spread(real, SHOWN)), (f"{name}, generated", _spread(generated, SHOWN))]
    draw_overview(rows, pictures / "domains.png", "Held-out images of every domain, and what its clients generated")


def _spread(images: dict[int, Tensor], count: int) -> Tensor:
    """`count` images taken from all clients in turn."""
    depth = min(len(own) for own in images.values())
    turns = [own[i] for i in range(depth) for own in images.values()]
    return torch.stack(turns[:count])
