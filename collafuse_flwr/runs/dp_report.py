"""What differential privacy guarantees for what a run released and trained, and in plain words what that is worth."""

from __future__ import annotations

import math
from typing import Any

from collafuse_flwr.config.config import Config
from collafuse_flwr.data.federated import FederationData
from collafuse_flwr.diffusion.dp_sgd import sampling_rate
from collafuse_flwr.diffusion.schedule import make_schedule
from collafuse_flwr.privacy.accounting import (
    VACUOUS,
    Training,
    composed_epsilon,
    epsilon,
    group_epsilon,
    release_mu,
    zcdp,
)
from collafuse_flwr.runs.cost_report import released_cut
from collafuse_flwr.setup.privacy import noised_updates, norm_bound, weight_protections

#: Of an image's releases, of the client's network, and of both.
NAMES = ("dp_mu", "dp_rho", "dp_epsilon", "dp_sgd_epsilon", "dp_total_epsilon", "dp_client_epsilon")


def dp_guarantees(config: Config, values: int, clients: list[dict[str, Any]]) -> dict[str, float | None]:
    """Add what is guaranteed for an image of `values` values to every client's row, and give the largest of each.

    Neighbours differ in one image that is replaced, and for DP-SGD in its label as well. `dp_mu`, `dp_rho` and
    `dp_epsilon` (at `dp.delta`) are those of its releases: None where weights leave a client that did not train them by
    DP-SGD, or where nothing is known of its releases. `dp_sgd_epsilon` is that of its steps of DP-SGD, and
    `dp_total_epsilon` that of both; None without DP-SGD. inf is a clean image. `dp_client_epsilon` is that of all data
    of a client, replaced by any other, in its updates or in averages of them (`privacy.dp_fedavg`); None without noise.
    """
    snr = make_schedule(config.diffusion.schedule, config.diffusion.timesteps).snr()
    private = config.dp.noise_multiplier > 0
    weights = "weights" in config.spec.sends and not weight_protections(config)
    unbounded = config.spec.clean_server and config.spec.fixed_cut is None
    for client in clients:
        client.update(dict.fromkeys(NAMES))
        client["dp_client_epsilon"] = _client_epsilon(config, client)
        if client["releases"] is None or weights or config.spec.is_gan or unbounded:
            continue
        own, delta = float(snr[released_cut(client)]), config.dp.delta
        # What this run received, or what the client's ledger holds of all runs, whichever is more.
        mu = max(
            release_mu(own, norm_bound(config, values), releases=client["releases"]), client.get("ledger_mu") or 0.0
        )
        client.update({"dp_mu": mu, "dp_rho": zcdp(mu), "dp_epsilon": epsilon(mu, delta)})
        if private and client["dp_steps"] is not None:
            steps = _training(config, client)
            sent = {"sgd": [], "total": noised_updates(config, client["averages"])}
            # The ledger's steps have noise of their own; without it all are taken to have this run's.
            for name, own_mu in (("sgd", 0.0), ("total", mu)):
                by_ledger = client.get(f"ledger_{name}_epsilon")
                client[f"dp_{name}_epsilon"] = (
                    composed_epsilon(own_mu, delta, steps, *sent[name]) if by_ledger is None else by_ledger
                )
    return {name: max((c[name] for c in clients if c[name] is not None), default=None) for name in NAMES}


def _client_epsilon(config: Config, client: dict[str, Any]) -> float | None:
    """Of the rounds whose averages have a client's updates, or of what its ledger has of all runs if that is more."""
    own = config.averaging
    if own.noise == "none":
        return None
    here = composed_epsilon(0.0, config.dp.delta, Training(own.noise_multiplier, 1.0, client["averages"]))
    return max(here, (client.get("ledger_client_epsilon") or 0.0) if own.noise == "client" else 0.0)


def group_guarantees(
    config: Config, data: FederationData | None, clients: list[dict[str, Any]]
) -> dict[str, float | None]:
    """Add `dp_group_epsilon` to every client's row, and give the largest: that of a whole patient, or person.

    Neighbours differ in all images of one group that must not be separated, in their releases, in the steps of DP-SGD
    and in noised weights. Nothing is added where no groups are known; it is None where an image has no guarantee
    either, where weights are noised beside DP-SGD, and where the client's ledger has steps of other runs, whose
    sampling of a group nobody knows.
    """
    if data is None or not data.images.metadata.group_key:
        return {}
    group, delta = data.images.metadata.groups[data.images.metadata.group_key], config.dp.delta
    for client in clients:
        largest = int(group[data.partitions[client["client"]].train].unique(return_counts=True)[1].max())
        mu, total, client["dp_group_epsilon"] = client["dp_mu"], client["dp_total_epsilon"], None
        steps = () if total is None else (_training(config, client),)
        sent = noised_updates(config, client["averages"])
        if mu is None or (total is not None and (sent or total > composed_epsilon(mu, delta, *steps) + 1e-9)):
            continue
        # All of a client's images at once move noised weights no further than one does: not sqrt(n) times as far.
        squares = sum(4 * own.steps / own.noise_multiplier**2 for own in sent) / largest
        client["dp_group_epsilon"] = group_epsilon(math.sqrt(mu * mu + squares), delta, largest, *steps)
    epsilons = (c["dp_group_epsilon"] for c in clients if c["dp_group_epsilon"] is not None)
    return {"dp_group_epsilon": max(epsilons, default=None)}


def _training(config: Config, client: dict[str, Any]) -> Training:
    """A client's steps of DP-SGD in this run."""
    rate = sampling_rate(config.client.batch_size, client["num_images"])
    return Training(config.dp.noise_multiplier, rate, client["dp_steps"])


def describe_guarantee(config: Config, pooled: dict[str, Any]) -> str:
    """What the largest epsilon is worth, and what it does not cover; nothing where there is none."""
    released, trained, total = (pooled.get(name) for name in ("dp_epsilon", "dp_sgd_epsilon", "dp_total_epsilon"))
    if released is None or (not released and total is None and pooled.get("dp_client_epsilon") is not None):
        return ""
    eps = released if total is None else total
    if eps == 0:
        return "Differential privacy: nothing was released."
    of = "an image's release" if total is None else "an image in its client's network"
    if released and total is not None:
        of = f"an image in its release ({released:.3g}) and in its client's network ({trained:.3g}) together"
    statement = f"Differential privacy of {of}: epsilon {eps:.3g} at delta {config.dp.delta:g}"
    if eps > VACUOUS:
        statement += f", which guarantees nothing (above {VACUOUS:g}); rely on the measured attacks"
    grouped = pooled.get("dp_group_epsilon")
    if eps and grouped is not None:
        value = f"above {VACUOUS:g}" if math.isinf(grouped) else f"{grouped:.3g}"
        statement += f"; of all images of a patient or person together, epsilon {value}"
    networks = " It covers uploads only, not the clients' networks." if total is None else ""
    networks = f" It holds against all who receive what it covers.{networks}"
    labels = " Its labels, which travel beside it, are not covered." if released and config.shares_labels() else ""
    return f"{statement}.{networks}{labels}"


def describe_updates(config: Config, pooled: dict[str, Any]) -> str:
    """What the largest epsilon of a client is worth, against whom, and what it does not cover; empty without noise."""
    eps = pooled.get("dp_client_epsilon")
    if eps is None:
        return ""
    of, against = {
        "client": ("the weights that it sent", "all who receive them, the server among them"),
        "server": ("this run's averages", "all who receive these, but not against the server, which sees every update"),
    }[config.averaging.noise]
    statement = f"Differential privacy of all data of a client in {of}: epsilon {eps:.3g} at delta {config.dp.delta:g}"
    if eps > VACUOUS:
        statement += f", which guarantees nothing (above {VACUOUS:g}); rely on the measured attacks"
    apart = "uploads, " if "images" in config.spec.sends else ""
    uncovered = f"{apart}reported numbers or networks that clients keep"
    return f"{statement}. It holds against {against}. It covers no {uncovered}."
