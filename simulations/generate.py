"""Images from a finished run: `python -m simulations.generate run=runs/... client=3 num_images=64`.

The server's half of the chain is run with the backbone, the client's half with the client's own denoiser, as in the
run; the images are written as files, with a grid of all.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from collafuse_flwr.config.checks import check_guidance
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.core.tensor_io import read_tensors
from collafuse_flwr.runs.figures import save_grid, save_picture
from collafuse_flwr.runs.history import History
from collafuse_flwr.runs.loaded_run import load_trained, refuse_gan
from collafuse_flwr.runs.run_dir import read_config
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.setup.diffusion import diffusion_setup
from collafuse_flwr.wire.common import ClientInfo
from simulations.cli import entry
from simulations.cli_args import check_whole_numbers, folders


@dataclass(frozen=True)
class GenerateRequest:
    """What to generate.

    `label` is a class or -1, `attributes` the names of those that an image is to have; without either, labels come as
    often as in the run's own samples. `guidance` None is the run's own.
    """

    run: Path
    client: int
    num_images: int
    label: int
    attributes: tuple[str, ...]
    guidance: float | None
    seed: int
    output: Path

    @classmethod
    def of(cls, settings: dict[str, Any]) -> GenerateRequest:
        """Check the settings.

        Raises:
            SettingError: a value is missing or not allowed.
        """
        check_whole_numbers(settings, {"client": 0, "num_images": 1, "label": -1, "seed": 0})
        client, guidance, names = settings["client"], settings["guidance"], str(settings["attributes"])
        run, output = folders(settings, lambda layout: layout.generated(client))
        if guidance != "" and (isinstance(guidance, bool) or not isinstance(guidance, (int, float)) or guidance < 0):
            raise SettingError("guidance", guidance, "a number >= 0, or empty for the run's own")
        attributes = tuple(name.strip() for name in names.split(",")) if names else ()
        return cls(
            run=run,
            client=client,
            num_images=settings["num_images"],
            label=settings["label"],
            attributes=attributes,
            guidance=None if guidance == "" else guidance,
            seed=settings["seed"],
            output=output,
        )


def generate(request: GenerateRequest) -> Path:
    """Generate images by collaboration of the backbone and one client's denoiser; the folder they are in.

    Raises:
        SettingError: the folder holds no finished run, or the run has no such client, class or attribute, or its
            networks cannot be guided.
    """
    config = read_config(request.run, "run")
    refuse_gan(config, request.run)
    if request.client >= config.run.num_supernodes:
        raise SettingError("client", request.client, f"0..{config.run.num_supernodes - 1}, the clients of the run")
    guidance = config.sampling.guidance_scale if request.guidance is None else request.guidance
    check_guidance(config, guidance)
    history = History(request.run)
    if history.load() is None or not RunLayout(request.run).client(request.client).samples.is_file():
        raise SettingError("run", str(request.run), "the folder of a run that has reached its last round")
    client_info = history.client_infos[request.client]
    images, classes = _sample(request, guidance, config, client_info)
    width = len(str(len(images) - 1))
    for index, image in enumerate(images):
        suffix = f"-class-{int(classes[index])}" if classes is not None else ""
        save_picture(image, request.output / f"{index:0{width}d}{suffix}.png")
    save_grid(images, request.output / "grid.png")
    described = {
        "run": str(request.run),
        "client": request.client,
        "cut_step": client_info.cut_step,
        "seed": request.seed,
        "num_images": len(images),
        "label": request.label,
        "attributes": list(request.attributes),
        "guidance": guidance,
    }
    write_json(request.output / "generated.json", described)
    return request.output


def _sample(
    request: GenerateRequest, guidance: float, config: Config, client_info: ClientInfo
) -> tuple[Tensor, Tensor | None]:
    """Both halves of the chain, from noise to images in [-1, 1]; and their classes, if they were asked for."""
    client, setup = request.client, diffusion_setup(config)
    layout = RunLayout(request.run)
    own = layout.client(client)
    shape = client_info.shape
    name = (request.seed, "generate", client)
    labels = _labels(request, config, own.samples, named_generator(*name, "labels"))
    x = torch.randn(
        (request.num_images, client_info.channels, client_info.size, client_info.size),
        generator=named_generator(*name, "x_T"),
    )
    if client_info.cut_step < client_info.timesteps:
        backbone = load_trained(setup.backbone(*shape), layout.backbone)
        conditions = labels if config.shares_labels() else None
        x = setup.sample(backbone, x, setup.server_grid(client_info.cut_step), conditions, (*name, "server"), guidance)
    if client_info.cut_step:
        denoiser = load_trained(setup.denoiser(client, *shape), own.denoiser)
        x = setup.sample(denoiser, x, setup.client_grid(client_info.cut_step), labels, (*name, "client"), guidance)
    return x.clamp(-1, 1), labels if config.data.conditioning == "classes" else None


def _labels(request: GenerateRequest, config: Config, samples: Path, generator: torch.Generator) -> Tensor | None:
    """What each image is conditioned on: what was asked for, or drawn from the run's own samples of the client."""
    condition = config.data.conditioning
    if request.label >= 0 and condition != "classes":
        raise SettingError("label", request.label, "-1: the networks of this run know no classes")
    if request.attributes and condition != "attributes":
        raise SettingError("attributes", ",".join(request.attributes), "empty: the networks of this run know none")
    if condition == "none":
        return None
    tensors, metadata = read_tensors(samples)
    held = tensors["labels" if condition == "classes" else "attributes"]
    if request.attributes:
        names: list[str] = json.loads(metadata["attribute_names"])
        for name in request.attributes:
            if name not in names:
                raise SettingError("attributes", name, f"names among {', '.join(names)}")
        return torch.tensor([[name in request.attributes for name in names]] * request.num_images, dtype=torch.uint8)
    classes = sorted(set(held.flatten().tolist()))
    if request.label >= 0:
        if request.label not in classes:
            raise SettingError("label", request.label, f"one of {', '.join(map(str, classes))}, the client's classes")
        return torch.full((request.num_images,), request.label)
    return held[torch.randint(0, len(held), (request.num_images,), generator=generator)]


def _act(settings: DictConfig) -> None:
    request = GenerateRequest.of(cast(dict[str, Any], OmegaConf.to_container(settings, resolve=True)))
    print(f"Images and their grid are in {generate(request)}")


main = entry(_act, "generate")

if __name__ == "__main__":
    sys.exit(main())
