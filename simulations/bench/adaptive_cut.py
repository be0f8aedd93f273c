"""Whether clients that move their cut find the one that is worth most, against every fixed cut, on unequal devices.

    python -m simulations.bench.adaptive_cut

Digits, six clients on devices of three speeds, two each. For every seed there is a run of `cut.policy=adaptive` and one
of each fixed cut of `cut.choices`. The reward of a client over the rounds after the exploration is the sum of what they
gained for the sum of what they cost, as `collafuse_flwr.client.adaptive_cut` defines both; of a fixed cut over the same
rounds. The table is Markdown; as JSON it goes to `output`, where the runs are. Beside `seeds` and `output` any setting
of a run may be given. The same command again goes on where it stopped.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flwr.clientapp import ClientApp
from omegaconf import OmegaConf

from collafuse_flwr.client.adaptive_cut import AdaptiveCut, cost
from collafuse_flwr.client.collafuse import MESSAGES
from collafuse_flwr.config.config import Config, without_unread
from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.core.errors import RunFailed, SettingError, UserError
from collafuse_flwr.core.progress import Progress
from collafuse_flwr.runs.history import RoundRecord
from simulations.cli import complain, flat_settings
from simulations.runners.app_loading import CLIENT_APP, begin_run, load_app
from simulations.runners.environment import quiet_flwr
from simulations.runners.local_grid import LocalGrid
from strategies import make_strategy

#: What the adaptive runs have; the fixed ones have the same without what only these read.
SETTINGS: dict[str, Any] = {
    "num_supernodes": 6,
    "partition": "iid",
    "num_rounds": 18,
    "model": "nano",
    "data.max_images": 480,
    "diffusion.timesteps": 50,
    "train.local_epochs": 4.0,
    "train.lr_schedule": "constant",
    "client.init_from": "random",
    "server.update_multiplier": 0.2,
    "sampling.steps": 5,
    "evaluation.every": 1,
    "evaluation.num_samples": 12,
    "resources.server_threads": 1,
    "cut.policy": "adaptive",
    "cut.warmup_rounds": 2,
    "cut.exploration_rounds": 12,
    "devices.profiles": ["0.1:1", "0.1:1", "1:1", "1:1", "10:1", "10:1"],
    "devices.message_seconds": 0.5,
}
#: The claim: at least this share of the best fixed cut's reward.
WITHIN = 0.9


@dataclass(frozen=True)
class Worth:
    """What the rounds after the exploration were worth to a client: its cut in them, gain and cost."""

    client: int
    cut: int
    gain: float
    cost: float

    @property
    def reward(self) -> float:
        """Gain for cost."""
        return self.gain / self.cost


def explored_rounds(config: Config) -> int:
    """Rounds of warm-up and exploration of clients that take part in every round."""
    start = AdaptiveCut.of(config.cut, tuple(config.cuts_of(0)), None)
    return start.warmup + start.bandit.pulls()


def worth(config: Config, rounds: list[RoundRecord], client: int, after: int) -> Worth:
    """The rounds after round `after`, in which the cut does not change.

    What a round gained is by how much the held-out loss that the client reports fell; after `after` it must be one at
    another cut, so the first of these rounds is left out.
    """
    name, steps = str(client), config.diffusion.timesteps
    kept = [row for row in rounds if row.round > after]
    (cut,) = {row.cuts[name] for row in kept}
    losses = [row.evaluation[name]["held_out_loss"] for row in kept]
    device, spent = config.client_devices()[client], 0.0
    for row in kept[1:]:
        seconds = device.seconds(row.clients[name]["flops"], 0) + MESSAGES * config.devices.message_seconds
        if name in row.uploads:
            raise RunFailed(f"client {client} uploads in round {row.round}, after its exploration")
        spent += cost(config.cut, seconds, 0)
    return Worth(client, cut, cut / steps * (losses[0] - losses[-1]), spent)


def rounds_of(config: Config) -> list[RoundRecord]:
    """The rounds of a run, those that are in its folder already among them; its samples are not measured."""
    quiet_flwr()
    client, folder = load_app(CLIENT_APP, ClientApp), Path(config.run.output)
    grid = LocalGrid(client, begin_run(), config.to_flower(), config.run.num_supernodes)
    strategy = make_strategy(config, folder, Progress(quiet=True), lambda _: None)
    arrays = strategy.connect(grid)
    strategy.start(grid, arrays, strategy.rounds_left)
    return strategy.history.rounds


def measure(overrides: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """The adaptive run of a seed and those of all fixed cuts."""
    adaptive = Config.from_flat(SETTINGS | overrides | {"seed": seed, "output": str(folder / f"adaptive-{seed}")})
    after, clients = explored_rounds(adaptive), range(adaptive.run.num_supernodes)
    rounds = rounds_of(adaptive)
    moved = [worth(adaptive, rounds, client, after) for client in clients]
    fixed: dict[int, list[Worth]] = {}
    for ratio in sorted(adaptive.cut.choices):
        output = str(folder / f"fixed-{ratio:g}-{seed}")
        flat = adaptive.to_flat() | {"cut.policy": "fixed", "cut_ratio": ratio, "output": output}
        rounds = rounds_of(Config.from_flat(without_unread(flat)))
        own = [worth(adaptive, rounds, client, after) for client in clients]
        fixed[own[0].cut] = own
    return {
        "seed": seed,
        "explored_rounds": after,
        "adaptive": [asdict(one) | {"reward": one.reward} for one in moved],
        "fixed": {cut: [asdict(one) | {"reward": one.reward} for one in own] for cut, own in fixed.items()},
    }


def compared(measured: list[dict[str, Any]], devices: list[str]) -> dict[str, dict[str, Any]]:
    """For each device, over its clients and all seeds: mean rewards, and what share of the best fixed cut's it has."""
    rows = {}
    for device in dict.fromkeys(devices):
        own = [client for client, its in enumerate(devices) if its == device]
        fixed = {
            cut: statistics.fmean(one["fixed"][cut][client]["reward"] for one in measured for client in own)
            for cut in measured[0]["fixed"]
        }
        moved = statistics.fmean(one["adaptive"][client]["reward"] for one in measured for client in own)
        ended = [one["adaptive"][client]["cut"] for one in measured for client in own]
        rows[device] = {"fixed": fixed, "adaptive": moved, "share": moved / max(fixed.values()), "ended": ended}
    return rows


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    """A row for each device: 1000 times the mean rewards, the share of the best, and the cuts that were kept to."""
    cuts = [f"cut {cut}" for row in list(rows.values())[:1] for cut in row["fixed"]]
    names = ["GFLOP/s:MB/s", *cuts, "adaptive", "of the best", "ended at"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for device, row in rows.items():
        rewards = [f"{1e3 * value:.3f}" for value in (*row["fixed"].values(), row["adaptive"])]
        ended = " ".join(map(str, row["ended"]))
        lines.append(f"| {device} | {' | '.join(rewards)} | {row['share']:.2f} | {ended} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Run, show and keep the table, and return the exit status."""
    overrides = {"seeds": "0,1,2", "output": "runs/adaptive_cut"} | flat_settings(OmegaConf.from_cli(arguments))
    seeds, output = str(overrides.pop("seeds")), str(overrides.pop("output"))
    try:
        if not all(part.isdecimal() for part in seeds.split(",")):
            raise SettingError("seeds", seeds, "whole numbers, separated by commas")
        measured = [measure(overrides, int(seed), Path(output).absolute()) for seed in seeds.split(",")]
    except UserError as error:
        return complain(error)
    rows = compared(measured, list(Config.from_flat(SETTINGS | overrides).devices.profiles))
    print(f"1000 x reward over the rounds after the first {measured[0]['explored_rounds']}\n")
    print(markdown(rows))
    missed = [device for device, row in rows.items() if row["share"] < WITHIN]
    print(f"\nWithin 10 % of the best fixed cut: {'not on ' + ', '.join(missed) if missed else 'on every device'}.")
    kept = {"compared": rows, "runs": measured, "settings": SETTINGS | overrides}
    write_json(Path(output) / "adaptive_cut.json", kept)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
