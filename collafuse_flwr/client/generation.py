"""The client's half of generating after training: finish what the server hands over, and keep the images here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from flwr.app import RecordDict
from torch import Tensor

from collafuse_flwr.client.handover import carry_to, received_backbone
from collafuse_flwr.client.policy import BEYOND, Policy
from collafuse_flwr.client.sample_labels import condition_samples
from collafuse_flwr.client.state_store import ClientStore
from collafuse_flwr.config.checks import check_guidance
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.core.errors import PolicyError, SettingError, UploadError, UserError
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.core.runtime import threads
from collafuse_flwr.core.tensor_io import read_tensors
from collafuse_flwr.data.codec import Codec, open_codec
from collafuse_flwr.data.images import ImageMetadata, ImageSet, to_uint8
from collafuse_flwr.privacy.ledger import Ledger
from collafuse_flwr.runs.generated import count_images, next_folder, write_images
from collafuse_flwr.runs.loaded_run import load_trained
from collafuse_flwr.runs.run_layout import ClientLayout
from collafuse_flwr.setup.diffusion import diffusion_setup
from collafuse_flwr.wire.codec import decode, encode
from collafuse_flwr.wire.common import ClientInfo, ClientInfoRequest
from collafuse_flwr.wire.generation import (
    CLIENTS_OWN,
    OPERATORS,
    Generated,
    GenerateHandoff,
    ImagesWanted,
    WantedRequest,
)
from collafuse_flwr.wire.validation import check_samples

#: Largest weight of the condition: far beyond it nothing else counts.
MAX_GUIDANCE = 1000.0


def finish(
    config: Config, client_info: ClientInfo, own: ClientStore, handoff: GenerateHandoff, codec: Codec | None = None
) -> tuple[Tensor, Tensor | None]:
    """Carry what was handed over to images in [-1, 1], with the network of the run's last evaluation.

    Returns:
        The images, decoded by the `codec` where they are latents, and the labels that networks were conditioned on, if
        any.

    Raises:
        SettingError: the client has no network.
        UploadError: the backbone of a client that chose where it takes over is missing, or another.
        UserError: what came out is not finite.
    """
    setup, cut, client = diffusion_setup(config), client_info.cut_step, client_info.partition_id
    step, backbone = setup.handover_step(cut), received_backbone(setup, client_info.shape, cut, handoff)
    with threads(config.resources.client_threads):
        if backbone is not None:
            step = own.load_trained().handover_step
            name = (handoff.seed, "generate", client, "backbone")
            handoff = carry_to(setup, step, backbone, handoff, name, handoff.guidance)
        x, labels = handoff.x_k, _complete_labels(config, client_info, own.layout, handoff, step)
        if cut:
            network = load_trained(setup.denoiser(client, *client_info.shape), own.layout.denoiser)
            grid, name = setup.client_grid(cut, step), (handoff.seed, "generate", client, "client")
            x = setup.sample(network, x, grid, labels, name, handoff.guidance, show=f"steps of client {client}")
    if not x.isfinite().all():
        raise UserError("the images that came of it are not finite")
    x = x.clamp(-1, 1)
    return x if codec is None else codec.decode(x), labels


def _complete_labels(
    config: Config, client_info: ClientInfo, own: ClientLayout, handoff: GenerateHandoff, step: int
) -> Tensor | None:
    """What the images are conditioned on: the server's word, the class that all have, or drawn here.

    They are drawn as in an evaluation, by what is seen of each sample at `step`, beside the run's own samples of the
    client in place of its images.
    """
    condition = config.data.conditioning
    if handoff.labels is not None or condition == "none":
        return handoff.labels
    if handoff.label >= 0:
        return torch.full((len(handoff.x_k),), handoff.label)
    name = (handoff.seed, "generate", client_info.partition_id, "labels")
    samples, schedule = _samples(own.samples, client_info), diffusion_setup(config).schedule
    drawn = condition_samples(config, schedule, step, samples, handoff, named_generator(*name))
    return drawn.labels


def _samples(path: Path, client_info: ClientInfo) -> ImageSet:
    """The samples of the last evaluation, as a set of images."""
    if not path.is_file():
        raise SettingError("run", str(path.parent), "the folder of a run that has come to an evaluation")
    held, metadata = read_tensors(path)
    names = json.loads(metadata.get("attribute_names", "[]"))
    classes = tuple(map(str, range(client_info.num_classes)))
    # Attributes that the server drew may be those of no class.
    labels = held["labels"].clamp(min=0)
    return ImageSet(
        to_uint8(held["images"]), labels, classes, "samples", ImageMetadata(held.get("attributes"), tuple(names))
    )


@dataclass(frozen=True)
class ImageRequest:
    """What a client's owner wants for itself; `label` -1 is every class."""

    num_images: int
    label: int
    seed: int

    @classmethod
    def load(cls, path: Path) -> ImageRequest | None:
        """The request in a file; None where there is none.

        Raises:
            UserError: it is damaged.
        """
        if not path.is_file():
            return None
        try:
            return cls(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} is damaged: {error}") from None

    def save(self, path: Path) -> None:
        """Leave the request in a file, in the place of an earlier one."""
        write_json(path, asdict(self))


class GenerateClient:
    """A client for the length of one message of a run that generates.

    It goes by the settings that it keeps of the run that trained. Of the run that generates it takes samples alone, and
    it answers with numbers that its images have no part in.
    """

    def __init__(
        self, client: int, store: ClientStore, *, durable: bool, run: str, policy: Policy | None, codec_path: str = ""
    ) -> None:
        """The client of this disk; `run` names the run that generates on its ledger, which is `durable` or not.

        Raises:
            SettingError: what decodes its samples is not there, or not at `codec_path`, for a client that has its own.
            UserError: it has come to no evaluation of such a run.
            PolicyError: the run's network is of a package that its owner does not name.
        """
        trained = store.load_trained()
        settings, self.client_info = trained.settings, trained.client_info
        if policy is not None:
            policy.check_imports(settings)
        self.config = Config.from_flat(settings)
        if client != self.client_info.partition_id:
            raise SettingError("partition-id", client, f"{self.client_info.partition_id}, as in the run that trained")
        self.codec = open_codec(self.config.data.codec, codec_path)
        self.store, self.policy = store, policy
        self.ledger = Ledger(store.layout.ledger, run, durable=durable)

    def answer(self, kind: str, content: RecordDict) -> RecordDict:
        """Answer a message; what leaves is on the ledger before.

        Raises:
            UserError: there is no such message, or its content does not fit.
            PolicyError: it is beyond the owner's limits.
        """
        handlers: dict[str, tuple[type[Any], Callable[[Any], object]]] = {
            "query.client_info": (ClientInfoRequest, lambda _: self.client_info),
            "query.images_wanted": (WantedRequest, lambda _: self.images_wanted()),
            "query.generate": (GenerateHandoff, self.generate),
        }
        if kind not in handlers:
            raise UserError(f"`task` = generate has no message {kind}")
        request_type, act = handlers[kind]
        request = decode(request_type, content)
        with self.store.lock():
            reply = act(request)
            self.ledger.add_once("numbers", message=kind, values=vars(reply))
        return encode(reply)

    def images_wanted(self) -> ImagesWanted:
        """What the owner has requested, if anything; of which class only where the server's half needs to know.

        Raises:
            PolicyError: it is beyond the owner's limits.
        """
        request = ImageRequest.load(self.store.layout.request)
        if request is None:
            return ImagesWanted()
        self._check_count(request.num_images)
        tells = self._server_conditions and request.label >= 0
        if tells and self.policy is not None:
            self.policy.check_requested_label()
        return ImagesWanted(request.num_images, request.label if tells else -1, request.seed)

    def generate(self, handoff: GenerateHandoff) -> Generated:
        """Finish samples and keep the images.

        Raises:
            UserError: nobody here wants them.
            UploadError, or PolicyError with an owner: they do not fit the run, or are too many.
            RoundError: the run that generates has handed over as much already.
        """
        self._check_count(handoff.x_k.shape[0] if handoff.x_k.ndim else 0)
        try:
            self._check(handoff)
        except (UploadError, SettingError) as error:
            raise self._refusal(error) from None
        layout = self.store.layout
        label = self._requested(handoff).label if handoff.round == CLIENTS_OWN else handoff.label
        self.ledger.begin("query.generate", handoff.round)
        handoff = replace(handoff, label=label)
        try:
            images, labels = finish(self.config, self.client_info, self.store, handoff, self.codec)
        except UploadError as error:
            raise self._refusal(error) from None
        folder = next_folder(layout.generated)
        described = {"run": layout.run, "client": self.client_info.partition_id, "cut_step": self.client_info.cut_step}
        described |= {"seed": handoff.seed, "label": label, "guidance": handoff.guidance}
        described |= {"requested_by": "the operator" if handoff.round == OPERATORS else "the client"}
        classes = labels if self.config.data.conditioning == "classes" else None
        write_images(folder, images, classes, described)
        if handoff.round == CLIENTS_OWN:
            layout.request.unlink()
        self.ledger.add("generated", images=len(images), folder=str(folder))
        return Generated(len(images))

    def _refusal(self, error: UserError) -> UserError:
        """An error that hangs on the message alone, so its sender may know why."""
        return error if self.policy is None else PolicyError(f"{BEYOND}: {error}")

    @property
    def _server_conditions(self) -> bool:
        """Whether the server's half is conditioned on labels."""
        return self.config.shares_labels() and self.client_info.cut_step < self.client_info.timesteps

    def _requested(self, handoff: GenerateHandoff) -> ImageRequest:
        """The owner's own request, which samples are for."""
        request = ImageRequest.load(self.store.layout.request)
        if request is None or (request.num_images, request.seed) != (len(handoff.x_k), handoff.seed):
            raise UserError("samples came for a request that nobody here has made")
        return request

    def _check_count(self, count: int) -> None:
        if self.policy is not None:
            self.policy.check_generation(count, count_images(self.store.layout.folder / "generated"))

    def _check(self, handoff: GenerateHandoff) -> None:
        """Hold samples against the run that trained.

        Raises:
            UploadError, SettingError: they do not fit.
        """
        check_samples(handoff.x_k, handoff.labels, self.client_info.shape)
        if handoff.round not in (OPERATORS, CLIENTS_OWN) or not len(handoff.x_k):
            raise UploadError(f"`round` is {OPERATORS} or {CLIENTS_OWN}, and there are samples")
        if (handoff.labels is not None) != self._server_conditions:
            raise UploadError("samples come with labels if the backbone is conditioned on them, and else without")
        classes = self.client_info.num_classes if self.config.data.conditioning == "classes" else 0
        if not -1 <= handoff.label < max(classes, 0):
            raise UploadError(f"`label` is -1 or one of {classes} classes")
        if not 0 <= handoff.guidance <= MAX_GUIDANCE:
            raise UploadError(f"`guidance` is within 0..{MAX_GUIDANCE:g}")
        check_guidance(self.config, handoff.guidance)
