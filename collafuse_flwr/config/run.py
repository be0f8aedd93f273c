"""What is run, who takes part in it, and on which machine."""

from __future__ import annotations

from dataclasses import dataclass

from collafuse_flwr.config.strategies import STRATEGIES
from collafuse_flwr.core.fields import setting

#: Most clients in a stack: each waits within the call of the one before.
MAX_STACK = 50


@dataclass(frozen=True)
class RunConfig:
    """What is run, where it goes and how it is started."""

    task: str = setting(
        "train",
        "train, or have server and clients generate with what the run in `output` trained",
        choices=("train", "generate"),
        top=True,
    )
    strategy: str = setting("collafuse", "the algorithm", choices=tuple(STRATEGIES), or_path=True, top=True)
    seed: int = setting(0, "seeds every random stream of the run", low=0, top=True)
    num_rounds: int = setting(10, "rounds of the federation", low=1, top=True)
    num_supernodes: int = setting(10, "clients (SuperNodes)", low=1, top=True)
    runner: str = setting("ray", "what runs the clients", choices=("ray", "local", "flwr"), top=True)
    output: str = setting("", "the run's folder; empty: a new one below runs/", top=True)
    resume: bool = setting(False, "continue the run in `output`", top=True)
    attack: bool = setting(False, "attack the run at its end, as simulations.attack does any finished run", top=True)
    baseline: str = setting(
        "none",
        "then train every client alone with as much client training, in `output`-alone, and say who gained",
        choices=("none", "local"),
        top=True,
    )
    policy: str = setting("", "an owner's limits (policy.toml) that bind every client of a simulation", top=True)
    quiet: bool = setting(False, "plain log lines instead of a progress bar", top=True)
    tracker: str = setting(
        "tensorboard",
        "what shows numbers and pictures beside the run's files",
        choices=("none", "tensorboard", "mlflow", "wandb"),
        top=True,
    )
    device: str = setting("auto", "where networks run", choices=("auto", "cpu", "cuda", "mps"), top=True)
    precision: str = setting("auto", "arithmetic of the networks", choices=("auto", "float32", "bfloat16"), top=True)


@dataclass(frozen=True)
class FederationConfig:
    """Who takes part."""

    fraction_train: float = setting(1.0, "share of the clients that train in each round", above=0, high=1)
    min_available_nodes: int = setting(0, "clients to wait for before the first round; 0: all", low=0)
    max_client_weight: float = setting(
        1.0, "largest share of one client in any average or pool, or an equal share where that is more", above=0, high=1
    )
    max_reply_mb: float = setting(4096.0, "MB that a client's reply, with its upload, may have", above=0)
    max_replies_mb: float = setting(
        0.0, "MB that the replies of all clients to one request may have together; 0: half of the memory", low=0
    )
    round_timeout: float = setting(3600.0, "seconds to wait for the clients' replies", above=0)


@dataclass(frozen=True)
class ResourcesConfig:
    """What a client and the server may use of the machine."""

    client_num_cpus: float = setting(1.0, "CPUs per client in Ray", above=0)
    client_num_gpus: float = setting(0.0, "GPUs per client in Ray; fractions share a card", low=0)
    client_threads: int = setting(1, "torch threads of a client", low=1)
    stack_clients: int = setting(
        1,
        "clients whose networks train at once, as one stack; 1: one after another; 0: what a short measurement of this "
        "machine finds fastest",
        low=0,
        high=MAX_STACK,
        when=({"runner": "local"}, {"runner": "ray"}),
    )
    server_threads: int = setting(0, "torch threads of the server; 0: all cores", low=0)
