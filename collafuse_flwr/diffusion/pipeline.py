"""The split chain as a pipeline of diffusers, in a folder of its own or on the networks that a run has left."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from os.path import relpath
from pathlib import Path
from typing import Any, ClassVar

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    ImagePipelineOutput,
    SchedulerMixin,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.runtime import Runtime
from collafuse_flwr.data.codec import decode_latents
from collafuse_flwr.diffusion.guidance import cfg_denoiser
from collafuse_flwr.diffusion.sampling import sampling_timesteps, split_steps
from collafuse_flwr.diffusion.schedulers import set_grid
from collafuse_flwr.diffusion.unet import ImageShape, add_null_label, as_denoise

#: In the index of a pipeline that lies beside networks and not above them: where these are, from there.
_FOLDERS = "_folders"

Labels = int | Sequence[int] | Sequence[Sequence[int]] | Tensor | None


class CollaFusePipeline(DiffusionPipeline):  # type: ignore[misc]
    """One chain by two networks: the server's `backbone` for t = T..k+1, a client's own `denoiser` for t = k..1.

    pipeline = CollaFusePipeline.from_pretrained("runs/first/clients/3")
    images = pipeline(num_images=4, class_labels=5, generator=torch.manual_seed(0)).images

    The scheduler may be any of diffusers whose `set_timesteps` takes `timesteps` and whose state is x_t itself, as
    `DDPMScheduler.from_config(pipeline.scheduler.config)`. It begins anew at the cut, where the network changes.

    Args:
        backbone: the network above the cut; None if `cut_step` is T.
        denoiser: the network below the cut; None if `cut_step` is 0.
        scheduler: of the whole chain.
        cut_step: k, in 0..T.
        class_names: of the classes, or attributes, that `class_labels` counts; None: there are none.
        client_start_step: where the client takes over what was made at the cut; None: there (it is elsewhere in the
            mode `official` of the authors' code alone).
        server_steps: calls of the backbone for an image; 0: one for every step.
        client_steps: the same of the denoiser.
        guidance_scale: weight of the condition; 1: plain.
        null_label: whether the networks have one class, or attribute, more, which stands for a label left out.
        vae: the codec of networks that make latents; None: they make images.
    """

    model_cpu_offload_seq = "backbone->denoiser->vae"
    _optional_components: ClassVar = ["backbone", "denoiser", "vae"]

    def __init__(
        self,
        backbone: UNet2DModel | UNet2DConditionModel | None,
        denoiser: UNet2DModel | UNet2DConditionModel | None,
        scheduler: SchedulerMixin,
        cut_step: int = 0,
        class_names: list[str] | None = None,
        client_start_step: int | None = None,
        server_steps: int = 0,
        client_steps: int = 0,
        guidance_scale: float = 1.0,
        null_label: bool = False,
        vae: AutoencoderKL | None = None,
    ) -> None:
        super().__init__()
        last = scheduler.config.num_train_timesteps
        if not 0 <= cut_step <= last:
            raise SettingError("cut_step", cut_step, f"0..{last}, the steps of the scheduler")
        for name, network, needed in (("backbone", backbone, cut_step < last), ("denoiser", denoiser, cut_step > 0)):
            if needed and network is None:
                raise SettingError(name, None, f"a network, as `cut_step` = {cut_step} of {last}")
        self.register_modules(backbone=backbone, denoiser=denoiser, scheduler=scheduler, vae=vae)
        self.register_to_config(
            cut_step=cut_step,
            class_names=list(class_names or ()),
            client_start_step=cut_step if client_start_step is None else client_start_step,
            server_steps=server_steps,
            client_steps=client_steps,
            guidance_scale=guidance_scale,
            null_label=null_label,
        )
        for network in self._networks:
            if null_label and _conditions(network):
                add_null_label(network, _shape(network))

    @classmethod
    def from_pretrained(cls, folder: str | Path, **arguments: Any) -> CollaFusePipeline:
        """Load a pipeline that was saved, or that of a client in a run's folder, `clients/N`.

        Further arguments are those of `DiffusionPipeline.from_pretrained`.
        """
        if "device_map" not in arguments:
            # These networks are small, and sparing memory needs a package that few have.
            arguments.setdefault("low_cpu_mem_usage", False)
        index = Path(folder) / cls.config_name
        components = json.loads(index.read_text()) if index.is_file() else {}
        # The name of the type differs between versions of diffusers.
        own = {name: arguments[name] for name in ("dtype", "torch_dtype", "low_cpu_mem_usage") if name in arguments}
        for name, place in components.get(_FOLDERS, {}).items():
            if name not in arguments:
                kind = getattr(diffusers, components[name][1])
                arguments[name] = kind.from_pretrained(Path(folder) / place, use_safetensors=True, **own)
        loaded: CollaFusePipeline = super().from_pretrained(folder, **arguments)
        return loaded

    @torch.no_grad()
    def __call__(
        self,
        num_images: int = 1,
        class_labels: Labels = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput:
        """Draw x_T ~ N(0, 1) and carry it down the chain, past the cut, to images.

        Args:
            num_images: how many, n >= 1.
            class_labels: a class or attributes, (A,) of 0 and 1, for all images, or for each, (n,) or (n, A); None:
                left out, which only networks with a `null_label` allow.
            generator: draws x_T and the noise of ancestral steps, or one for each image.
            num_inference_steps: calls of both networks for an image, divided at the cut in proportion to the steps of
                each; 0: one for every step. None: as in the run.
            guidance_scale: weight of the condition; None: as in the run.
            output_type: `pil`, `np` (n, size, size, channels) or `pt` (n, channels, size, size), in [0, 1].
            return_dict: whether images are wrapped as diffusers wraps them, or in a tuple.

        Raises:
            SettingError: an argument does not fit the networks, or the scheduler cannot be cut.
        """
        self._check_scheduler()
        last, device, shape = self.scheduler.config.num_train_timesteps, self._execution_device, self.image_shape
        cut, start, own = self.config.cut_step, self.config.client_start_step, self.config
        above, below = own.server_steps, own.client_steps
        if num_inference_steps is not None:
            above, below = split_steps(last, cut, num_inference_steps)
        weight = own.guidance_scale if guidance_scale is None else guidance_scale
        if weight != 1 and not own.null_label:
            raise SettingError("guidance_scale", weight, "1: these networks know no image without its label")
        labels = self._labels(class_labels, num_images)
        x = randn_tensor((num_images, *shape), generator=generator, device=device, dtype=torch.float32)
        x = self._carry(self.backbone, x, sampling_timesteps(last, cut, above), labels, weight, generator)
        x = self._carry(self.denoiser, x, sampling_timesteps(start, 0, below), labels, weight, generator)
        if self.vae is not None:
            x = decode_latents(self.vae, x.clamp(-1, 1).to(self.vae.dtype)).float()
        images: Any = (x / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _carry(
        self, network: Any, x: Tensor, grid: list[int], labels: Tensor | None, weight: float, generator: Any
    ) -> Tensor:
        """Carry x, (n, channels, size, size), down the grid with one network; the state is never clamped."""
        if len(grid) < 2:
            return x
        labels = labels if _conditions(network) else None
        denoise = cfg_denoiser(as_denoise(network, Runtime(x.device, network.dtype)), 1.0 if labels is None else weight)
        set_grid(self.scheduler, grid)
        for t in self.progress_bar(grid[:-1]):
            output = denoise(x, torch.full((len(x),), t, device=x.device), labels)
            x = self.scheduler.step(output, t - 1, x, generator=generator, return_dict=False)[0]
        return x

    def _labels(self, class_labels: Labels, count: int) -> Tensor | None:
        """What each image is conditioned on: classes, (n,), or attributes, (n, A), both int64.

        Raises:
            SettingError: they do not fit the networks.
        """
        names, conditional = self.config.class_names, [network for network in self._networks if _conditions(network)]
        if class_labels is None and (not conditional or self.config.null_label):
            return None
        if not conditional:
            raise SettingError("class_labels", class_labels, "None: these networks know no classes")
        attributes = _shape(conditional[0]).num_attributes > 0
        row = (len(names),) if attributes else ()
        allowed = f"{len(names)} attributes, each 0 or 1" if attributes else f"a class in 0..{len(names) - 1}"
        if class_labels is not None:
            labels = torch.as_tensor(class_labels, dtype=torch.int64, device=self._execution_device)
            top = 1 if attributes else len(names) - 1
            if labels.shape in (row, (count, *row)) and int(labels.min()) >= 0 and int(labels.max()) <= top:
                return labels.expand(count, *row)
        shown = class_labels.tolist() if isinstance(class_labels, Tensor) else class_labels
        raise SettingError("class_labels", shown, f"{allowed}, for all images or for each of the {count}")

    def _check_scheduler(self) -> None:
        """Refuse schedulers that cannot be begun anew at the cut, or whose state there is not x_t.

        Raises:
            SettingError: it is one.
        """
        grid, step = (inspect.signature(own).parameters for own in (self.scheduler.set_timesteps, self.scheduler.step))
        if "timesteps" not in grid or "generator" not in step or float(self.scheduler.init_noise_sigma) != 1:
            allowed = "one that takes `timesteps` and is at x_t, as DDPMScheduler or DPMSolverMultistepScheduler"
            raise SettingError("scheduler", type(self.scheduler).__name__, allowed)

    @property
    def _networks(self) -> list[Any]:
        return [network for network in (self.backbone, self.denoiser) if network is not None]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, and the side twice, of what the networks make: images, or latents."""
        config = self._networks[0].config
        return config.in_channels, config.sample_size, config.sample_size


def save_index(folder: Path, networks: dict[str, Path | None], scheduler: Any, **config: Any) -> None:
    """Write the index of a `CollaFusePipeline` on networks that stay where they are, and its scheduler.

    Args:
        folder: of the pipeline; no weights are written there.
        networks: the folders of `backbone`, `denoiser` and, for latents, `vae`, with config.json; None of one that
            is not needed.
        scheduler: of the whole chain.
        config: the other arguments of the pipeline.
    """
    scheduler.save_pretrained(folder / "scheduler")
    kinds = {
        name: [None, None]
        if own is None
        else ["diffusers", json.loads((own / "config.json").read_text())["_class_name"]]
        for name, own in networks.items()
    }
    index = {
        "_class_name": CollaFusePipeline.__name__,
        "_diffusers_version": diffusers.__version__,
        _FOLDERS: {name: Path(relpath(own, folder)).as_posix() for name, own in networks.items() if own is not None},
        **kinds,
        "scheduler": ["diffusers", type(scheduler).__name__],
        **config,
    }
    write_json(folder / CollaFusePipeline.config_name, index)


def _shape(network: Any) -> ImageShape:
    """The input of one of our networks, with the label that stands for a dropped one."""
    own = network.config
    classes, attributes = own.get("num_class_embeds") or 0, own.get("projection_class_embeddings_input_dim") or 0
    return ImageShape(own.in_channels, own.sample_size, classes, attributes, null=True)


def _conditions(network: Any) -> bool:
    """Whether a network is conditioned on labels."""
    shape = _shape(network)
    return bool(shape.num_classes or shape.num_attributes)
