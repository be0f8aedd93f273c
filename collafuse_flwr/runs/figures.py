"""The pictures of a run: sample grids, the hand-over beside what came of it, and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from collafuse_flwr.core.atomic_io import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Small images are enlarged, pixel by pixel, to about this many pixels a side.
SHOWN_SIZE = 48
#: What leaves a client beside uploads.
OTHERS = ("weights", "activations", "numbers", "dp_steps")


def save_picture(image: Tensor, path: Path) -> None:
    """Write one image in [-1, 1], shape (channels, size, size), as a PNG of its own size."""
    _write(_shown(image), path)


def save_grid(images: Tensor, path: Path, columns: int = 10) -> None:
    """Write images in [-1, 1], shape (n, channels, size, size), as one PNG; values beyond are clamped, not wrapped."""
    _write(_grid(images, columns), path)


def draw_overview(rows: Sequence[tuple[str, Tensor]], path: Path, title: str) -> None:
    """Draw labelled rows of images, each in [-1, 1] of shape (n, channels, size, size), one above the other."""
    columns = max(len(images) for _, images in rows)
    height = 0.45 + 0.68 * len(rows)
    figure = new_figure(1.9 + 0.62 * columns, height, dpi=150)
    figure.suptitle(title, fontsize=9)
    figure.subplots_adjust(
        left=1.75 / (1.9 + 0.62 * columns), right=0.995, bottom=0.02, top=1 - 0.3 / height, hspace=0.06
    )
    axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axis, (label, images) in zip(axes, rows, strict=True):
        axis.imshow(_grid(images, columns).permute(1, 2, 0).numpy())
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        # A row of fewer images begins where the others do.
        axis.set_anchor("W")
    save_figure(figure, path)


def draw_disclosure(runs: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw what left a client in each run: its uploads, at their largest signal-to-noise ratio, and everything else."""
    from matplotlib.patches import Patch  # noqa: PLC0415 - slow, as in `new_figure`

    figure = new_figure(9, 3.2, dpi=120, layout="constrained")
    uploads, others = figure.subplots(1, 2)
    kinds = [name for name in OTHERS if any(row.get(name) for row in runs.values())]
    for place, row in enumerate(runs.values()):
        uploads.bar(place, row.get("uploads", 0), 0.6, color="C0")
        if row.get("uploads"):
            uploads.text(place, row["uploads"], f"{row['snr_db']:.1f} dB", ha="center", va="bottom", fontsize=7)
        for kind, name in enumerate(kinds):
            where = place + (kind - (len(kinds) - 1) / 2) / 5
            others.bar(where, row.get(name, 0), 0.2, color=f"C{OTHERS.index(name) + 1}")
    for axis, title in ((uploads, "uploads, and their largest SNR"), (others, "what else left")):
        axis.set(title=title, xticks=range(len(runs)), xlabel="run")
        axis.set_xticklabels([name[-6:] for name in runs], fontsize=7)
        axis.set_xlim(-0.6, max(1, len(runs)) - 0.4)
    uploads.margins(y=0.12)
    uploads.yaxis.get_major_locator().set_params(integer=True)
    others.set_yscale("symlog")
    if kinds:
        colours = [Patch(color=f"C{OTHERS.index(name) + 1}") for name in kinds]
        figure.legend(colours, kinds, loc="outside right upper", fontsize=7)
    save_figure(figure, path)


def draw_curves(rounds: Sequence[dict[str, Any]], clients: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the losses by round and the clients' quality at the end, from metrics.jsonl and summary.json."""
    figure = new_figure(9, 3.2, dpi=120, layout="constrained")
    losses, quality = figure.subplots(1, 2)
    numbers = [row["round"] for row in rounds]
    backbone = [row["server"].get("loss") for row in rounds]
    _line(losses, numbers, backbone, "backbone (t > k)", color="C0", linewidth=2)
    trained = {c for row in rounds for c, own in row["clients"].items() if _trained_loss(own) is not None}
    gan = any("generator_loss" in own for row in rounds for own in row["clients"].values())
    kinds = {"loss": "clients (t <= k)"} if not gan else {"loss": "discriminators", "generator_loss": "generators"}
    for index, client in enumerate(sorted(trained, key=int)):
        for color, (name, label) in zip(("C1", "C0"), kinds.items(), strict=False):
            own = [_trained_loss(row["clients"].get(client), name) for row in rounds]
            _line(losses, numbers, own, label if index == 0 else None, color=color, alpha=0.5)
    losses.set(xlabel="round", ylabel="training loss", title="Loss")
    losses.xaxis.get_major_locator().set_params(integer=True)
    if losses.lines:
        losses.legend(fontsize=8)
    measured = [client for client in clients if client.get("fd") is not None]
    names = [str(client["client"]) for client in measured]
    quality.bar(names, [client["fd"] for client in measured], color="C2")
    quality.set(xlabel="client", ylabel="Fréchet distance", title="Quality (lower is better)")
    save_figure(figure, path)


def _trained_loss(client: dict[str, Any] | None, name: str = "loss") -> float | None:
    return client[name] if client and client["steps"] else None


def _line(axis: Any, x: list[int], y: list[float | None], label: str | None, **style: Any) -> None:
    points = [(a, b) for a, b in zip(x, y, strict=True) if b is not None]
    if points:
        axis.plot(*zip(*points, strict=True), marker=".", label=label, **style)


def _shown(images: Tensor) -> Tensor:
    return images.clamp(-1, 1) / 2 + 0.5


def _grid(images: Tensor, columns: int) -> Tensor:
    from torchvision.utils import make_grid  # noqa: PLC0415 - slow, as in `_write`

    scale = max(1, SHOWN_SIZE // images.shape[-1])
    shown = interpolate(_shown(images), scale_factor=scale, mode="nearest")
    grid: Tensor = make_grid(shown, nrow=columns, padding=2, pad_value=1.0)
    return grid.clamp(0, 1).to(torch.float32)


def _write(shown: Tensor, path: Path) -> None:
    """Write what is in [0, 1], shape (channels, height, width), as a PNG."""
    # Slow to import, and needed when a run is over.
    from torchvision.utils import save_image  # noqa: PLC0415

    with atomic_write(path) as temporary:
        save_image(shown, temporary, format="png")


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """An empty figure, so many inches wide and high."""
    # Slow to import, and needed when a run is over.
    from matplotlib.figure import Figure  # noqa: PLC0415

    return Figure(figsize=(width, height), **options)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")
