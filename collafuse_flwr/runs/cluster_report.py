"""Clusters of clients by round, and how they agree with the domains that their images are of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from collafuse_flwr.runs.figures import new_figure, save_figure

#: Colours of matplotlib's tab10: a cluster's comes again after so many.
COLOURS = 10


def clusters_by_round(rounds: list[dict[str, Any]], domains: dict[int, str]) -> list[dict[str, Any]]:
    """The number of clusters of each round that has any, and their agreement with the clients' domains, if known.

    `agreement` is the adjusted Rand index (Hubert and Arabie 1985): 1 for the same groups, about 0 for random ones.
    """
    rows = []
    for row in rounds:
        clusters = _clusters(row)
        if clusters:
            kinds = len(set(clusters.values()))
            rows.append({"round": row["round"], "clusters": kinds, "agreement": _agreement(clusters, domains)})
    return rows


def draw_clusters(rounds: list[dict[str, Any]], domains: dict[int, str], path: Path) -> None:
    """Draw every client's cluster by round, clients of a domain side by side, and the agreement beside them."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - slow, and most runs have no clusters

    of_rounds, by_round = (
        clusters_by_round(rounds, domains),
        [own for row in rounds if (own := _clusters(row))],
    )
    clients = sorted({client for own in by_round for client in own}, key=lambda c: (domains.get(c, ""), c))
    cells = torch.tensor([[own.get(c, torch.nan) for c in clients] for own in by_round]).remainder(COLOURS)
    width, height = min(14.0, 5 + 0.12 * len(clients)), 1.8 + 0.1 * len(cells)
    figure = new_figure(width, height, dpi=120, layout="constrained")
    axis, curve = figure.subplots(1, 2, width_ratios=(3, 1))
    numbers = [row["round"] for row in of_rounds]
    extent = (-0.5, len(clients) - 0.5, numbers[-1] + 0.5, numbers[-1] + 0.5 - len(cells))
    axis.imshow(cells.numpy(), "tab10", aspect="auto", interpolation="none", vmin=0, vmax=COLOURS, extent=extent)
    _name(axis, [domains.get(client, "") for client in clients])
    axis.set(ylabel="round", title="Clusters of clients")
    agreements = [(row["agreement"], row["round"]) for row in of_rounds if row["agreement"] is not None]
    if agreements:
        curve.plot(*zip(*agreements, strict=True), marker=".")
    title = "With domains" if agreements else "No domains"
    curve.set(xlim=(-0.6, 1.1), ylim=extent[2:], xlabel="adjusted Rand index", title=title)
    for each in (axis, curve):
        each.yaxis.set_major_locator(MaxNLocator(integer=True))
    save_figure(figure, path)


def _clusters(row: dict[str, Any]) -> dict[int, int]:
    return {int(client): cluster for client, cluster in row["server"].get("clusters", {}).items()}


def _agreement(clusters: dict[int, int], domains: dict[int, str]) -> float | None:
    from sklearn.metrics import adjusted_rand_score  # noqa: PLC0415 - slow, and most runs have no clusters

    members = sorted(clusters.keys() & domains.keys())
    if len({domains[client] for client in members}) < 2:
        return None
    return float(adjusted_rand_score([domains[c] for c in members], [clusters[c] for c in members]))


def _name(axis: Any, names: list[str]) -> None:
    """Write each domain below the middle of its clients, and draw a line between domains."""
    starts = [place for place, name in enumerate(names) if place == 0 or names[place - 1] != name]
    ends = [*starts[1:], len(names)]
    axis.set_xticks([(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)])
    axis.set_xticklabels([names[start] or "clients" for start in starts])
    for start in starts[1:]:
        axis.axvline(start - 0.5, color="white", linewidth=2)
