"""The commands of a page with smaller numbers, and small sets in the places of those that they name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser
from sklearn.datasets import load_digits

from collafuse_flwr.config.config import Config, without_unread
from simulations.cli import flat_settings
from tests.component.test_docs import composed, runs_of
from tests.unit.data.sets import ATTRIBUTES, pixels, write_idx, write_png

#: Settings of a run that are lowered to this, where the strategy reads them, and numbers that are higher alone.
LOWERED = {
    "num_supernodes": 4,
    "num_rounds": 2,
    "train.local_epochs": 0.25,
    "data.max_images": 200,
    "evaluation.num_samples": 24,
    "sampling.steps": 2,
    "server.update_multiplier": 1,
    "gan.width": 4,
    "gan.batch_size": 8,
    "pfl_gan.num_synthetic": 16,
}
#: Settings that take the place of a page's own.
REPLACED = {"runner": "local", "model": "nano", "resources.server_threads": 1}
#: A sweep's values beyond so many are left out, but for strategies.
MOST_VALUES = 2
#: Folders in which `prepare` writes the sets.
PLACES = {
    "imagefolder": "scans",
    "nifti": "volumes",
    "celeba": "celeba",
    "npz": "images.npz",
}


def prepare(root: Path) -> None:
    """Write a small set of each kind that the pages name."""
    digits = load_digits()
    images = np.kron((digits.images[:300] * 15).astype(np.uint8), np.ones((1, 2, 2), np.uint8))
    labels = digits.target[:300].astype(np.uint8)
    for folder in ("MNIST", "KMNIST", "FashionMNIST", "notMNIST"):
        for split in ("train", "t10k"):
            write_idx(root / folder / "raw" / f"{split}-images-idx3-ubyte", images)
            write_idx(root / folder / "raw" / f"{split}-labels-idx1-ubyte", labels)
    np.savez(root / PLACES["npz"], images=images, labels=labels)
    for number, (image, label) in enumerate(zip(images[:120], labels[:120], strict=True)):
        write_png(root / PLACES["imagefolder"] / ("even", "odd")[label % 2] / f"{number:03}.png", image)
    for patient in range(16):
        volume = nibabel.Nifti1Image(pixels(16, 16, 100).astype(np.float32), np.eye(4))
        (root / PLACES["nifti"] / f"patient-{patient}").mkdir(parents=True)
        nibabel.save(volume, root / PLACES["nifti"] / f"patient-{patient}" / "scan_t1.nii.gz")
    faces = root / PLACES["celeba"]
    names = [f"{number + 1:06}.jpg" for number in range(120)]
    for name in names:
        write_png(faces / "img_align_celeba" / name, pixels(218, 178, 3))
    rows = [f"{name} {' '.join(['1'] * len(ATTRIBUTES))}" for name in names]
    (faces / "list_attr_celeba.txt").write_text("\n".join([str(len(names)), " ".join(ATTRIBUTES), *rows, ""]))
    owners = [f"{name} {number // 2}" for number, name in enumerate(names)]
    (faces / "identity_CelebA.txt").write_text("\n".join([*owners, ""]))


def place(dataset: object, root: Path) -> str:
    """Where a set of this kind is."""
    return str(root / PLACES.get(str(dataset), ""))


def lowered(arguments: list[str], root: Path) -> list[str]:
    """Arguments of `simulations.run` or `simulations.sweep` with small numbers, on a small set."""
    own = {name: text for name, _, text in (argument.partition("=") for argument in arguments)}
    (first, *_) = runs_of([argument for argument in arguments if not argument.startswith("hydra")])
    config = Config.from_flat(without_unread(flat_settings(composed(first))))
    flat = config.to_flat()
    # A client tries each of its cuts before it chooses.
    kept = {"num_rounds"} if flat["cut.policy"] == "adaptive" else set[str]()
    # Clients of some classes or domains hold all of them only together.
    kept |= {"num_supernodes"} if flat["partition"] in ("by_class", "by_domain") else set()
    for name, most in LOWERED.items():
        if (
            name not in kept
            and not config.unread(name)
            and not _is_sweep(name, own)
            and not 0 < float(flat[name]) <= most
        ):
            own[name] = str(most)
    for name, value in REPLACED.items():
        if not config.unread(name) and not (name == "runner" and own.get("devices.profiles")):
            own[name] = str(value)
    if "partition" not in own and flat["partition"] == "dirichlet":
        # Each of few images' clients has every class.
        own["partition"] = "iid"
    if flat["deconvolution.iterations"]:
        own["deconvolution.iterations"] = "1"
    for name in ("dataset", "public.dataset"):
        if flat[f"{name}_path"]:
            own[f"{name}_path"] = place(flat[name], root)
    return [f"{name}={text if name == 'strategy' else _fewer(name, text)}" for name, text in own.items()]


def _is_sweep(name: str, own: Mapping[str, str]) -> bool:
    return name in own and OverridesParser.create().parse_override(f"{name}={own[name]}").is_sweep_override()


def _fewer(name: str, text: str) -> str:
    """The first values of a sweep."""
    override = OverridesParser.create().parse_override(f"{name}={text}")
    if not override.is_sweep_override():
        return text
    return ",".join(list(override.sweep_string_iterator())[: 1 if name == "seed" else MOST_VALUES])
