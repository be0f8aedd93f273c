"""The run folder: settings, metrics, networks, pictures and the summary."""

from collafuse_flwr.artifacts.folder import RESUMABLE, open_run, read_config
from collafuse_flwr.artifacts.holdings import Holdings
from collafuse_flwr.artifacts.pictures import draw_curves, draw_overview, save_grid, save_picture
from collafuse_flwr.artifacts.summary import summarise
from collafuse_flwr.artifacts.tables import print_summary

__all__ = [
    "RESUMABLE",
    "Holdings",
    "draw_curves",
    "draw_overview",
    "open_run",
    "print_summary",
    "read_config",
    "save_grid",
    "save_picture",
    "summarise",
]
