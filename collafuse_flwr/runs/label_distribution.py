"""Who holds what, before anything is trained: a table, a file of all counts, and a picture."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from collafuse_flwr.core.atomic_io import atomic_write
from collafuse_flwr.data.federated import FederationData

#: Clients that the table on the terminal shows, and kinds of images that have a colour of their own.
SHOWN_CLIENTS, SHOWN_KINDS = 30, 20


@dataclass(frozen=True, eq=False)
class LabelDistribution:
    """How many images of each class every client has, or with each attribute where all images are of one class.

    `counts` has shape (clients, kinds), `train` and `held_out` (clients,), and `groups` says under names such as
    patient how many different ones a client has, (clients,); all are int64.
    """

    kinds: tuple[str, ...]
    counts: Tensor
    train: Tensor
    held_out: Tensor
    groups: dict[str, Tensor]

    @classmethod
    def of(cls, data: FederationData) -> LabelDistribution:
        """Count what the clients of a federation have."""
        images, metadata = data.images, data.images.metadata
        rows = [torch.cat([own.train, own.held_out]) for own in data.partitions]
        if images.num_classes == 1 and metadata.attributes is not None:
            kinds = metadata.attribute_names
            counts = [metadata.attributes[own].sum(0, dtype=torch.int64) for own in rows]
        else:
            kinds = images.class_names
            counts = [images.labels[own].bincount(minlength=len(kinds)) for own in rows]
        groups = {name: torch.tensor([len(g[own].unique()) for own in rows]) for name, g in metadata.groups.items()}
        train, held_out = ([len(getattr(own, side)) for own in data.partitions] for side in ("train", "held_out"))
        return cls(kinds, torch.stack(counts), torch.tensor(train), torch.tensor(held_out), groups)

    def write(self, path: Path) -> None:
        """Write all counts as CSV, a line per client."""
        with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["client", "train", "held_out", *self.groups, *self.kinds])
            columns = [self.train, self.held_out, *self.groups.values(), *self.counts.T]
            writer.writerows([client, *row] for client, row in enumerate(torch.stack(columns, 1).tolist()))

    def show(self, console: Console) -> None:
        """Print a line for each of the first clients, and what all hold together."""
        table = Table(title="Who holds what", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
        for column in ("client", "train", "held out", *self.groups, "kinds", "most of"):
            table.add_column(column, justify="left" if column == "most of" else "right", overflow="fold")
        shown = min(len(self.train), SHOWN_CLIENTS)
        for client in range(shown):
            own = self.counts[client]
            numbers = [client, *(int(n[client]) for n in (self.train, self.held_out, *self.groups.values()))]
            kinds = f"{int((own > 0).sum())} of {len(self.kinds)}"
            table.add_row(*map(str, numbers), kinds, self._most(own), end_section=client == shown - 1)
        totals = [str(int(n.sum())) for n in (self.train, self.held_out)]
        table.add_row("all", *totals, *([""] * len(self.groups)), "", self._most(self.counts.sum(0)), style="bold")
        console.print(table)
        if shown < len(self.train):
            console.print(f"The first {shown} of {len(self.train)} clients are shown; the file has all.")

    def _most(self, counts: Tensor) -> str:
        """The three kinds that are held most, with their counts."""
        order = counts.argsort(descending=True, stable=True)[:3].tolist()
        return ", ".join(f"{self.kinds[kind]} ({int(counts[kind])})" for kind in order if counts[kind])

    def draw(self, path: Path, title: str) -> None:
        """Draw a stacked bar for every client; the rarest of many kinds share a colour."""
        clients = len(self.counts)
        figure = Figure(figsize=(min(16.0, 4.5 + 0.28 * clients), 4), dpi=120, layout="constrained")
        axis, base = figure.subplots(), torch.zeros(clients, dtype=torch.int64)
        order = self.counts.sum(0).argsort(descending=True, stable=True)
        shown = sorted(order[: SHOWN_KINDS - 1].tolist() if len(order) > SHOWN_KINDS else order.tolist())
        bars = [(self.kinds[kind], self.counts[:, kind]) for kind in shown]
        if len(shown) < len(order):
            bars.append((f"{len(order) - len(shown)} others", self.counts.sum(1) - sum(bar for _, bar in bars)))
        colours = colormaps["tab10" if len(bars) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
        for (name, counts), colour in zip(bars, colours, strict=False):
            axis.bar(range(clients), counts.numpy(), bottom=base.numpy(), width=0.85, label=name, color=colour)
            base = base + counts
        axis.set(xlabel="client", ylabel="images, once for each kind", title=title)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlim(-0.6, clients - 0.4)
        figure.legend(loc="outside right upper", fontsize=7, reverse=True)
        with atomic_write(path) as temporary:
            figure.savefig(temporary, format="png")
