"""Images from a finished run: `python -m simulations.generate run=runs/... client=3 num_images=64`.

The server's half of the chain is run with the backbone, the client's half with the client's own denoiser, as in the
run; the images are written as files, with a grid of all.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from collafuse_flwr.client.generation import finish
from collafuse_flwr.client.state_store import ClientStore
from collafuse_flwr.config.checks import check_guidance
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.tensor_io import read_tensors
from collafuse_flwr.data.codec import open_codec
from collafuse_flwr.diffusion.settings import GenerateConfig
from collafuse_flwr.runs.generated import write_images
from collafuse_flwr.runs.loaded_run import refuse_gan
from collafuse_flwr.runs.run_dir import open_config
from collafuse_flwr.runs.run_layout import RunLayout
from simulations.cli import entry
from simulations.cli_args import check_whole_numbers, folders
from strategies.generation import TrainedServer

SETTINGS_OF_GENERATE = """\
  run=: the folder of a finished run of diffusion models
  client=0: whose denoiser finishes the images
  num_images=64: how many
  label=-1: one class, or -1 for all, as often as among the uploads or the run's own samples
  attributes=: with data.conditioning=attributes, names of those that an image is to have, as a,b; empty: as in the run
  guidance=: weight of the condition; empty: the run's own
  seed=0: of everything that is drawn; the same seed makes the same images
  output=: a new folder for the images; empty: generated/client-N in the run's folder"""


@dataclass(frozen=True)
class GenerateRequest:
    """What to generate.

    `label` is a class or -1, `attributes` the names of those that an image is to have; without either, labels come as
    often as among the uploads, or the run's own samples. `guidance` None is the run's own.
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

    Both halves are those of `task=generate`: the same seed makes the same images as between machines.

    Raises:
        SettingError: the folder holds no finished run, or the run has no such client, class or attribute, or its
            networks cannot be guided.
    """
    config = open_config(request.run, "run")
    refuse_gan(config, request.run)
    if request.client >= config.run.num_supernodes:
        raise SettingError("client", request.client, f"0..{config.run.num_supernodes - 1}, the clients of the run")
    server, own = TrainedServer.of(request.run, "run"), RunLayout(request.run).client(request.client)
    if not own.samples.is_file():
        raise SettingError("run", str(request.run), "the folder of a run that has reached its last round")
    guidance = server.guidance(-1.0 if request.guidance is None else request.guidance)
    check_guidance(config, guidance)
    labels, client_info = _labels(request, config, own.samples), server.client_infos[request.client]
    wanted = GenerateConfig(num_images=request.num_images, label=request.label, guidance=guidance, seed=request.seed)
    handoff = server.handoff(request.client, wanted, labels)
    if labels is not None:
        handoff = replace(handoff, labels=labels)
    images, labels = finish(config, client_info, ClientStore(own.folder), handoff, open_codec(config.data.codec))
    described = {
        "run": str(request.run),
        "client": request.client,
        "cut_step": client_info.cut_step,
        "seed": request.seed,
        "label": request.label,
        "attributes": list(request.attributes),
        "guidance": guidance,
    }
    write_images(request.output, images, labels if config.data.conditioning == "classes" else None, described)
    return request.output


def _labels(request: GenerateRequest, config: Config, samples: Path) -> Tensor | None:
    """What each image is conditioned on where the request says it; None where it is drawn.

    Raises:
        SettingError: the client has no such class, or its images no such attribute.
    """
    condition = config.data.conditioning
    if request.label >= 0 and condition != "classes":
        raise SettingError("label", request.label, "-1: the networks of this run know no classes")
    if request.attributes and condition != "attributes":
        raise SettingError("attributes", ",".join(request.attributes), "empty: the networks of this run know none")
    if request.attributes:
        names: list[str] = json.loads(read_tensors(samples)[1]["attribute_names"])
        for name in request.attributes:
            if name not in names:
                raise SettingError("attributes", name, f"names among {', '.join(names)}")
        return torch.tensor([[name in request.attributes for name in names]] * request.num_images, dtype=torch.uint8)
    if request.label >= 0:
        classes = sorted(set(read_tensors(samples)[0]["labels"].tolist()))
        if request.label not in classes:
            raise SettingError("label", request.label, f"one of {', '.join(map(str, classes))}, the client's classes")
        return torch.full((request.num_images,), request.label)
    return None


def _act(settings: DictConfig) -> None:
    request = GenerateRequest.of(cast(dict[str, Any], OmegaConf.to_container(settings, resolve=True)))
    print(f"Images and their grid are in {generate(request)}")


main = entry(_act, "generate", usage=f"{__doc__}\n{SETTINGS_OF_GENERATE}")

if __name__ == "__main__":
    sys.exit(main())
