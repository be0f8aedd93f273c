"""What differential privacy guarantees for what a run released, and in plain words what that is worth."""

from __future__ import annotations

from typing import Any

from collafuse_flwr.config import FEDERATED, GANS, Config
from collafuse_flwr.diffusion import make_schedule
from collafuse_flwr.privacy.accounting import VACUOUS, epsilon, release_mu, zcdp
from collafuse_flwr.privacy.clipping import norm_bound


def guarantees(config: Config, values: int, clients: list[dict[str, Any]]) -> dict[str, float | None]:
    """Add `dp_mu`, `dp_rho` and `dp_epsilon` (at `dp_delta`) to every client's row, and give the largest of each.

    They are those of the releases of one image of `values` values, and None where weights leave a client, or where it
    did not say how often it released. inf is a clean image.
    """
    snr = make_schedule(config.model.schedule, config.model.timesteps).snr()
    weights = config.run.strategy in (*FEDERATED, *GANS, "hybrid", "oracle")
    for client in clients:
        own, known = float(snr[client["cut_step"]]), client["releases"] is not None and not weights
        mu = release_mu(own, norm_bound(config, values), releases=client["releases"]) if known else None
        client["dp_mu"] = mu
        client["dp_rho"] = None if mu is None else zcdp(mu)
        client["dp_epsilon"] = None if mu is None else epsilon(mu, config.split.dp_delta)
    return {
        name: max((client[name] for client in clients if client[name] is not None), default=None)
        for name in ("dp_mu", "dp_rho", "dp_epsilon")
    }


def in_words(config: Config, pooled: dict[str, Any]) -> str:
    """One sentence about the largest epsilon; nothing where there is none."""
    eps = pooled.get("dp_epsilon")
    if eps is None:
        return ""
    if eps == 0:
        return "Differential privacy: nothing was released."
    means = f"Differential privacy of an image's release: epsilon {eps:.3g} at delta {config.split.dp_delta:g}"
    labels = " Its labels, which travel beside it, are not covered." if config.shares_labels() else ""
    if eps > VACUOUS:
        return f"{means}, which guarantees nothing (above {VACUOUS:g}); rely on the measured attacks.{labels}"
    return f"{means}.{labels}"
