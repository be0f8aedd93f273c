"""What a run cost and disclosed, added up from its rounds."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import Any

from collafuse_flwr.config.config import Config
from collafuse_flwr.diffusion.schedule import make_schedule
from collafuse_flwr.privacy.leakage_bounds import snr_db


def client_costs(config: Config, rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each client that took part: its cut (of a GAN its `cuts`), disclosure, traffic and work.

    `client_flops` and `client_seconds` are for training; `flops_per_image` is what one generated image costs it. Of a
    client that moved its cut, `cut_step` is the last one, and `released_cut_step` the smallest one that it had.
    """
    schedule = make_schedule(config.diffusion.schedule, config.diffusion.timesteps)
    gan = config.spec.is_gan
    cuts = {name: cut for row in rounds for name, cut in row["cuts"].items()}
    every_cut: dict[str, list[int]] = defaultdict(list)
    for row in rounds:
        for name, cut in row["cuts"].items():
            every_cut[name].append(cut)
    split = {name: own for row in rounds for name, own in row["server"].get("client_cuts", {}).items()}
    received = _received(config, rounds)
    rows = []
    names = {name for row in rounds for part in ("clients", "failed", "rejected", "evaluation") for name in row[part]}
    for name in sorted(names, key=int):
        numbers = [row["clients"][name] for row in rounds if name in row["clients"]]
        evaluations = [row["evaluation"][name] for row in rounds if name in row["evaluation"]]
        last = evaluations[-1] if evaluations else {}
        cut = min(every_cut[name])
        uploads = cut < schedule.timesteps
        rows.append(
            {
                "client": int(name),
                "cut_step": cuts[name],
                **({"released_cut_step": cut} if config.recuts() else {}),
                **({"cuts": split[name]} if name in split else {}),
                "num_images": next((row["images"][name] for row in rounds if name in row["images"]), 0),
                # What leaves a GAN's client is no noised image, so it has no such ratio.
                "snr_db": None if gan else snr_db(float(schedule.alpha_bar[cut])) if uploads else float("-inf"),
                "bits": _unbounded(last, "bits"),
                "releases": _most(last.get("releases"), received.get(name)),
                "dp_steps": last.get("dp_steps"),
                "ledger_mu": _unbounded(last, "release_mu"),
                "ledger_sgd_epsilon": _unbounded(last, "dp_sgd_epsilon"),
                "ledger_total_epsilon": _unbounded(last, "dp_total_epsilon"),
                "ledger_client_epsilon": _unbounded(last, "dp_client_epsilon"),
                "averages": _averages(name, rounds),
                "bytes_up": sum(row["bytes_up"].get(name, 0) for row in rounds),
                "bytes_down": sum(row["bytes_down"].get(name, 0) for row in rounds),
                "client_flops": sum(n["flops"] for n in numbers) + last.get("tuned_flops", 0),
                "client_seconds": sum(n["seconds"] or 0.0 for n in numbers),
                "image_updates": sum(n["image_updates"] for n in numbers) + last.get("tuned_updates", 0),
                "flops_per_image": last.get("flops_per_image"),
                "server_flops_per_image": last.get("server_flops_per_image"),
                # It is 0 where there is no denoiser to have one.
                "held_out_loss": last.get("held_out_loss") or None,
                "kernel_distance": last.get("kernel_distance"),
                "failed": sum(name in row["failed"] for row in rounds),
                "rejected": sum(name in row["rejected"] for row in rounds),
            }
        )
    return rows


def released_cut(client: dict[str, Any]) -> int:
    """The cut step of the least noisy release of a client, by its row: all others on its path tell no more."""
    cut: int = client.get("released_cut_step", client["cut_step"])
    return cut


def _averages(name: str, rounds: list[dict[str, Any]]) -> int:
    """Rounds whose average a client may have moved: all but those in which it says that it took no step."""
    selected = [row for row in rounds if name in row["images"]]
    return sum(name not in row["clients"] or row["clients"][name].get("steps", 0) > 0 for row in selected)


def _received(config: Config, rounds: list[dict[str, Any]]) -> dict[str, int]:
    """Releases of each image that arrived, by client, whatever it says itself: its last evaluation may be lost."""
    uploads = Counter(name for row in rounds for name in row.get("uploads", ()))
    if not uploads:
        return {}
    draws, again = config.upload.draws_per_image, config.upload.noise != "fixed"
    return {name: draws * (count if again else 1) for name, count in uploads.items()}


def _most(*counts: int | None) -> int | None:
    return max((count for count in counts if count is not None), default=None)


def _unbounded(evaluation: dict[str, Any], name: str) -> float | None:
    """A number that may be infinite; JSON has no infinity, so it is null, and what a client did not say is absent."""
    value: float | None = evaluation.get(name)
    return math.inf if value is None and name in evaluation else value


def server_costs(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The server's training, added up.

    `batch_seconds` are those of a split GAN's batches with the clients' share in them, and `modelled_seconds` those of
    the same on devices that were named.
    """
    work = [row["server"] for row in rounds if row["server"]]
    whole = {name: [w[name] for w in work if name in w] for name in ("batch_seconds", "modelled_seconds")}
    return {name: sum(parts) for name, parts in whole.items() if parts} | {
        "flops": sum(w["flops"] for w in work),
        "seconds": sum(w["seconds"] for w in work),
        "image_updates": sum(w["image_updates"] for w in work),
        "pool": work[-1]["pool"] if work else 0,
    }


def total(clients: list[dict[str, Any]]) -> dict[str, Any]:
    """The sum of the clients' costs; of disclosure, the largest of any client."""
    every = [c["bits"] for c in clients if c["bits"] is not None]
    return {
        "snr_db": max((c["snr_db"] for c in clients if c["snr_db"] is not None), default=None),
        "bits": max(every, default=None),
        **{
            name: sum(c[name] for c in clients)
            for name in ("bytes_up", "bytes_down", "client_flops", "client_seconds", "image_updates")
        },
    }


def failed_contributions(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Contributions that failed (the client raised, died or was late) or were rejected (they did not fit)."""
    reasons = [
        {"round": row["round"], "client": int(name), "kind": kind, "reason": reason}
        for row in rounds
        for kind in ("failed", "rejected")
        for name, reason in row[kind].items()
    ]
    return {
        "failed": sum(r["kind"] == "failed" for r in reasons),
        "rejected": sum(r["kind"] == "rejected" for r in reasons),
        "lost": reasons,
    }
