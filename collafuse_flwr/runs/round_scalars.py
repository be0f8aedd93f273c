"""The numbers of one round, by the names that they are shown under while a run goes on."""

from __future__ import annotations

import math
import statistics
from typing import Any

from collafuse_flwr.runs.history import RoundRecord

#: Losses by the name of a side: key of a client's metrics.
CLIENT_LOSSES = {"loss/client": "loss", "loss/generator": "generator_loss"}


def round_scalars(row: RoundRecord) -> dict[str, float]:
    """Losses, seconds, traffic and clients of a round; what was not measured, or is not finite, is absent."""
    losses: dict[str, float | None] = {"loss/backbone": row.server.get("loss")}
    losses |= {name: _mean(row.clients.values(), key) for name, key in CLIENT_LOSSES.items()}
    # It is 0 where there is no denoiser to have one.
    held_out = [own for own in row.evaluation.values() if own.get("held_out_loss")]
    losses["loss/held-out"] = _mean(held_out, "held_out_loss")
    return {name: value for name, value in losses.items() if value is not None and math.isfinite(value)} | {
        "seconds/round": row.seconds,
        "traffic/bytes-up": float(sum(row.bytes_up.values())),
        "traffic/bytes-down": float(sum(row.bytes_down.values())),
        "clients/answered": float(len(row.clients)),
        "clients/failed": float(len(row.failed)),
        "clients/rejected": float(len(row.rejected)),
    }


def quality_scalars(summary: dict[str, Any]) -> dict[str, float]:
    """What a summary measured over all samples together."""
    numbers = {name: x for name, x in summary["pooled"].items() if isinstance(x, (int, float))}
    return {f"quality/{name}": float(x) for name, x in numbers.items() if math.isfinite(x)}


def _mean(rows: Any, key: str) -> float | None:
    """The mean over the clients that trained, or were measured, and say it."""
    numbers = [row[key] for row in rows if row.get(key) is not None and row.get("steps", 1)]
    return statistics.fmean(numbers) if numbers else None
