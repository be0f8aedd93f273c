"""Where a run keeps what: the same on the server and, in simulation, on its clients."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.atomic_io import as_file_name

#: Goes up whenever a run's folder is written in a way that the code before or after it does not read; runs without a
#: number are of layout 1.
LAYOUT = 3
#: The file of an attack's results, which may lie elsewhere than below the run.
ATTACK_RESULTS = "attacks.json"


class _HasFolder(Protocol):
    @property
    def folder(self) -> Path: ...


class _Below:
    """An attribute that is a path below the owner's `folder`, or another folder of its."""

    def __init__(self, name: str, of: str = "folder") -> None:
        self.name, self.of = name, of

    def __get__(self, owner: _HasFolder, kind: type) -> Path:
        folder: Path = getattr(owner, self.of)
        return folder / self.name


@dataclass(frozen=True)
class ClientLayout:
    """All paths in a client's folder: below the run's in simulation, on the client's own disk in a deployment.

    What a run goes on from lies apart on a disk that outlives runs: no run destroys, or takes up, another's.
    """

    folder: Path
    #: The run (see `run_name`); empty where the folder is of one run alone.
    run: str = ""

    secret = _Below("secret")
    lock = _Below("lock")
    #: What has left the client, in any run.
    ledger = _Below("ledger.jsonl")
    #: The cut that the client has chosen, and what for.
    cut = _Below("cut.json")
    #: Decoded images of a deployed client, and what is to be known of how they were read.
    image_cache = _Below("decoded")
    data_report = _Below("images.json")
    runs = _Below("runs")
    #: Of the last evaluation: the network, its samples, and, written last, the settings that they are by.
    denoiser = _Below("denoiser", "own_run")
    samples = _Below("samples.safetensors", "own_run")
    trained = _Below("trained.json", "own_run")
    #: The images that the client's owner wants, until they are generated.
    request = _Below("request.json", "own_run")
    #: Of GANs: the generator's blocks that samples are made with, and what lasts from one message to the next.
    generator = _Below("generator.safetensors", "own_run")
    session = _Below("working", "own_run")
    discriminator_round = _Below("working.safetensors", "own_run")

    @property
    def own_run(self) -> Path:
        """The folder of what the run goes on from."""
        return self.runs / self.run if self.run else self.folder

    @property
    def generated(self) -> Path:
        """Where images lie that were generated with the run, in numbered folders."""
        return self.folder / "generated" / self.run

    def state(self, round_: int) -> Path:
        """What the client keeps after a round."""
        return self.own_run / f"state-{round_:06d}.safetensors"

    def states(self) -> dict[int, Path]:
        """Round -> what is kept of it, oldest first."""
        return dict(sorted((int(path.stem.split("-")[1]), path) for path in self.own_run.glob("state-*.safetensors")))


def run_name(config: Config, run_id: int) -> str:
    """What a run is called on its clients' disks: as its output folder, for a run that is resumed has another id.

    A run without one is called by its id. The name is that of a file, whatever the folder's is.
    """
    if not config.run.output:
        return str(run_id)
    name = Path(config.run.output).name
    return f"{as_file_name(name)[:64]}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"


@dataclass(frozen=True)
class RunLayout:
    """All paths in the folder of a run."""

    folder: Path

    config = _Below("config.json")
    #: What the process of the run holds.
    lock = _Below(".lock")
    summary = _Below("summary.json")
    #: How many clients train at once, where that was measured.
    stack = _Below("stack.json")
    #: What is to be known of how the images were read: windows, and files that were left out.
    data_report = _Below("images.json")
    #: One line of JSON a round.
    metrics = _Below("metrics.jsonl")
    pictures = _Below("pictures")
    #: What `tracker` writes beside them.
    tensorboard = _Below("tensorboard")
    mlflow = _Below("mlflow")
    #: wandb itself makes a folder of this name here.
    wandb = _Below("wandb")
    clients = _Below("clients")
    checkpoint = _Below("server/state.safetensors")
    #: The one before it.
    last_checkpoint = _Below("server/last-state.safetensors")
    #: A folder that diffusers reads.
    backbone = _Below("server/backbone")
    pool = _Below("server/pool")
    #: What the backbone makes of it, by `deconvolution.iterations`.
    denoised = _Below("server/denoised")
    handoffs = _Below("server/hand_over.safetensors")
    #: How many images were begun for which client when no training went on.
    handed_over = _Below("server/generated.jsonl")
    #: Of GANs: the whole generator, or the server's blocks of a split one.
    generator = _Below("server/generator.safetensors")
    server_blocks = _Below("server/middle.safetensors")
    #: What an attack on the run leaves; its results are written last.
    attacks = _Below("attacks")
    attack_results = _Below(f"attacks/{ATTACK_RESULTS}")
    #: What the process of a sweep's run said, and what Flower did with `runner=flwr`.
    log = _Below("run.log")
    flower_log = _Below("flwr.log")

    @classmethod
    def of(cls, config: Config, run_id: int) -> RunLayout:
        """The run's folder: `output`, or runs/<run id> where the program was started."""
        return cls(Path(config.run.output or f"runs/{run_id}").absolute())

    def client(self, client: int) -> ClientLayout:
        """The folder of one client in a simulation."""
        return ClientLayout(self.clients / str(client))

    def generated(self, client: int) -> Path:
        """Where `simulations.generate` puts a client's images."""
        return self.folder / "generated" / f"client-{client}"
