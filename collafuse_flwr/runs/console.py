"""The summary of a run on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from collafuse_flwr.privacy.leakage_bounds import IMAGES_PER_VALUE
from collafuse_flwr.runs.dp_report import describe_guarantee, describe_updates
from collafuse_flwr.runs.metrics import TerminalColumn, TerminalTable, terminal_columns
from collafuse_flwr.runs.run_dir import read_config

#: Whom the columns of a table about disclosure are about.
SEEN = "SNR, bits and re-id are of a server that keeps to the protocol, and keeps all uploads."
#: Columns of a table by heading: the key of the number, and how it is shown.
Columns = Mapping[str, tuple[str, TerminalColumn]]


def print_summary(summary: dict[str, Any], folder: Path, console: Console) -> None:
    """Show the summary as a table, with what was lost on the way, and where everything is."""
    config, pooled = read_config(folder), summary["pooled"]
    gan = config.spec.is_gan
    columns, cut = terminal_columns(summary, "gan" if gan else "diffusion"), "cuts" if gan else "cut_step"
    title = "Quality and cost" if gan else "Quality, disclosure and cost"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for column in ("client", "images", "cuts" if gan else "cut", *columns):
        table.add_column(column, justify="right")
    for client in summary["clients"]:
        heading = (str(client.get(name, "-")) for name in ("client", "num_images", cut))
        table.add_row(*heading, *_cells(client, columns))
    table.add_section()
    images = str(sum(c["num_images"] for c in summary["clients"]))
    table.add_row("pooled", images, "", *_cells(pooled, columns), style="bold")
    console.print(table)
    if gan or "domains" in summary:
        _print_domains(summary, console)
    if pooled.get("fd_real") is not None:
        console.print(
            "FD is the Fréchet distance to held-out images (lower is better); TSTR is the accuracy on them of a "
            "classifier trained on the samples. "
            f"Real training images: FD {pooled['fd_real']:.2f}, {pooled['tstr_real']:.3f}.",
            highlight=False,
        )
    if low := [row["client"] for row in summary["clients"] if row.get("bits_underestimated")]:
        console.print(
            f"bits underestimate what {len(low)} of {len(summary['clients'])} clients disclose: the covariance wants "
            f"{IMAGES_PER_VALUE} images for each value (pixel and channel) of an image.",
            highlight=False,
        )
    _print_published(summary, console)
    _print_clients(summary, "further", "Further metrics", console)
    seen = SEEN if "images" in config.spec.sends else ""
    for statement in filter(None, (seen, describe_guarantee(config, pooled), describe_updates(config, pooled))):
        console.print(statement, highlight=False)
    server = summary["server"]
    console.print(f"Server: {server['flops'] / 1e9:.0f} GFLOP, {server['seconds']:.0f} s.", highlight=False)
    if "batch_seconds" in server:
        console.print(_batches_took(server), highlight=False)
    if summary["failed"] or summary["rejected"]:
        console.print(f"Lost contributions: {summary['failed']} failed, {summary['rejected']} rejected:")
        for loss in summary["lost"]:
            console.print(f"  round {loss['round']}, client {loss['client']}: {loss['reason']}", markup=False)
    console.print(f"Everything is in {folder}", markup=False, soft_wrap=True)


def _print_domains(summary: dict[str, Any], console: Console) -> None:
    """Show what samples are worth, by domain, where they were measured."""
    pooled = summary["pooled"]
    if pooled.get("accuracy") is None:
        return
    accuracies = [row["accuracy"] for row in summary["clients"] if row.get("accuracy") is not None]
    rows = {**summary.get("domains", {}), "all": pooled | {"accuracy_worst": min(accuracies, default=None)}}
    title = "Classifiers trained on the samples, in % (means over classes)"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    table.add_column("domain")
    columns = terminal_columns(summary, "domains")
    for column in columns:
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(name, *_cells(row, columns), style="bold" if name == "all" else None)
    console.print(table)
    console.print(
        "Samples of a domain's clients are tested together on its held-out images; worst is the client that does worst "
        "alone. The score, exp(E KL(p(y|x) || p(y))), is by a classifier of all real training images.",
        highlight=False,
    )


def _print_clients(summary: dict[str, Any], table_name: TerminalTable, title: str, console: Console) -> bool:
    """Show a table of its own of the clients and all samples, if any of its numbers was measured; whether it was."""
    pooled = summary["pooled"]
    columns = {name: own for name, own in terminal_columns(summary, table_name).items() if own[0] in pooled}
    if not columns:
        return False
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for heading in ("client", "samples", "held out", *columns):
        table.add_column(heading, justify="right")
    for row in (*summary["clients"], {"client": "pooled"} | pooled):
        first = (str(row.get(name, "-")) for name in ("client", "num_samples", "num_held_out"))
        table.add_row(*first, *_cells(row, columns), style="bold" if row["client"] == "pooled" else None)
    console.print(table)
    return True


def _print_published(summary: dict[str, Any], console: Console) -> None:
    """Show the distances in published networks, if there are any, with the numbers of images that they depend on."""
    pooled = summary["pooled"]
    if not _print_clients(summary, "published", "In the features of published networks", console):
        return
    real = f" Real training images: FID {pooled['fid_real']:.2f}." if "fid_real" in pooled else ""
    console.print(
        "FID and CLIP-FID of few images are biased upwards, most of all below 2048 and 512 images: compare them at "
        f"equal numbers only.{real}",
        highlight=False,
    )


def _cells(row: dict[str, Any], columns: Columns) -> Sequence[str]:
    """The measured part of a row of a table; what was not measured is a dash."""
    return [_cell(row.get(key), column) for key, column in columns.values()]


def _cell(value: float | None, column: TerminalColumn) -> str:
    return "-" if value is None else f"{value / column.unit:.{column.digits}f}"


def _batches_took(server: dict[str, Any]) -> str:
    """Of a split GAN: how long its batches took, and should take the devices that were named."""
    took = f"The batches took {server['batch_seconds']:.0f} s here, clients and waiting included"
    if "modelled_seconds" not in server:
        return f"{took}."
    return f"{took}; they should take the devices named {server['modelled_seconds']:.0f} s (a model)."
