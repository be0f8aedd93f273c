"""Images from a finished run: `python -m simulations.generate run=runs/... client=3 num_images=64`.

The server's half of the chain is run with the backbone, the client's half with the client's own denoiser, as in the
run; the images are written as files, with a grid of all.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, load_model
from torch import Tensor, nn

from collafuse_flwr.artifacts import read_config, save_grid, save_picture
from collafuse_flwr.config import Config
from collafuse_flwr.errors import SettingError
from collafuse_flwr.files import write_json
from collafuse_flwr.folders import client_folder
from collafuse_flwr.process import Process
from collafuse_flwr.rng import stream
from simulations.entry import entry
from strategies.journal import Journal


@dataclass(frozen=True)
class Request:
    """What to generate; `label` -1 stands for all classes, as often as in the run's own samples."""

    run: Path
    client: int
    num_images: int
    label: int
    seed: int
    output: Path

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Request:
        """Check the settings.

        Raises:
            SettingError: a value is missing or not allowed.
        """
        for name, low in (("client", 0), ("num_images", 1), ("label", -1), ("seed", 0)):
            if not isinstance(settings[name], int) or isinstance(settings[name], bool) or settings[name] < low:
                raise SettingError(name, settings[name], f"a whole number >= {low}")
        if not settings["run"]:
            raise SettingError("run", "", "the folder of a finished run")
        run, client = Path(str(settings["run"])).absolute(), settings["client"]
        output = (
            Path(str(settings["output"])).absolute() if settings["output"] else run / "generated" / f"client-{client}"
        )
        if output.exists() and not (output.is_dir() and not any(output.iterdir())):
            raise SettingError("output", str(output), "a new or empty folder")
        return cls(run, client, settings["num_images"], settings["label"], settings["seed"], output)


def generate(request: Request) -> Path:
    """Generate images by collaboration of the backbone and one client's denoiser; the folder they are in.

    Raises:
        SettingError: the folder holds no finished run, or the run has no such client or class.
    """
    if not (request.run / "config.json").is_file():
        raise SettingError("run", str(request.run), "the folder of a finished run")
    config = read_config(request.run)
    cuts = config.cut_steps()
    if request.client >= len(cuts):
        raise SettingError("client", request.client, f"0..{len(cuts) - 1}, the clients of the run")
    images, labels = _sample(request, config, Process.of(config))
    width = len(str(len(images) - 1))
    for index, image in enumerate(images):
        suffix = f"-class-{int(labels[index])}" if labels is not None else ""
        save_picture(image, request.output / f"{index:0{width}d}{suffix}.png")
    save_grid(images, request.output / "grid.png")
    described = {
        "run": str(request.run),
        "client": request.client,
        "cut_step": cuts[request.client],
        "seed": request.seed,
    }
    write_json(request.output / "generated.json", described | {"num_images": len(images), "label": request.label})
    return request.output


def _sample(request: Request, config: Config, process: Process) -> tuple[Tensor, Tensor | None]:
    """Both halves of the chain, from noise to images in [-1, 1]."""
    journal, client = Journal(request.run), request.client
    own = client_folder(request.run, client)
    if journal.load() is None or not (own / "samples.safetensors").is_file():
        raise SettingError("run", str(request.run), "the folder of a run that has reached its last round")
    hello = journal.hellos[client]
    shape = hello.channels, hello.size, hello.num_classes
    name = (request.seed, "generate", client)
    labels = _labels(request, config, load_file(own / "samples.safetensors")["labels"], name)
    x = torch.randn((request.num_images, hello.channels, hello.size, hello.size), generator=stream(*name, "x_T"))
    if hello.cut_step < hello.timesteps:
        backbone = _load(process.backbone(*shape), request.run / "server" / "backbone")
        conditions = labels if config.split.share_labels else None
        x = process.reverse(backbone, x, process.server_grid(hello.cut_step), conditions, (*name, "server"))
    if hello.cut_step:
        denoiser = _load(process.denoiser(client, *shape), own / "denoiser")
        x = process.reverse(denoiser, x, process.client_grid(hello.cut_step), labels, (*name, "client"))
    return x.clamp(-1, 1), labels


def _labels(request: Request, config: Config, known: Tensor, name: tuple[int | str, ...]) -> Tensor | None:
    if not config.model.conditional:
        if request.label >= 0:
            raise SettingError("label", request.label, "-1: the networks of this run know no classes")
        return None
    classes = sorted(set(known.tolist()))
    if request.label >= 0:
        if request.label not in classes:
            raise SettingError("label", request.label, f"one of {', '.join(map(str, classes))}, the client's classes")
        return torch.full((request.num_images,), request.label)
    return known[torch.randint(0, len(known), (request.num_images,), generator=stream(*name, "labels"))]


def _load(network: nn.Module, folder: Path) -> nn.Module:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    if not path.is_file():
        raise SettingError("run", str(folder), "the folder of a finished run (its networks are not all there)")
    load_model(network, path)
    return network


def _act(settings: DictConfig) -> None:
    request = Request.of(cast(dict[str, Any], OmegaConf.to_container(settings, resolve=True)))
    print(f"Images and their grid are in {generate(request)}")


main = entry(_act, "generate")

if __name__ == "__main__":
    sys.exit(main())
