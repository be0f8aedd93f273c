"""Small data sets as their official downloads lie on disk, and what a refusal looks like."""

import io
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import nibabel
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from collafuse_flwr.core.errors import DataError
from collafuse_flwr.data.datasets import LOADERS, load_images
from collafuse_flwr.data.images import ImageSet
from collafuse_flwr.data.settings import DataConfig


def pixels(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def write_idx(path: Path, array: NDArray[Any], kind: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def write_pair(root: Path, split: str, count: int = 20, folder: str = "MNIST") -> NDArray[np.uint8]:
    images = pixels(count, 8, 8)
    write_idx(root / folder / "raw" / f"{split}-images-idx3-ubyte", images)
    write_idx(root / folder / "raw" / f"{split}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)
    return images


def write_png(path: Path, array: NDArray[Any], mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)


def as_png(array: NDArray[Any]) -> dict[str, Any]:
    """An image as `datasets` holds it in a table."""
    content = io.BytesIO()
    Image.fromarray(array).save(content, "png")
    return {"bytes": content.getvalue(), "path": None}


def write_folder(root: Path, per_class: int = 3) -> NDArray[np.uint8]:
    images = pixels(2 * per_class, 8, 8)
    for i, image in enumerate(images):
        write_png(root / ("cat", "dog")[i // per_class] / f"{i:03}.png", image)
    return images


def write_cifar10(root: Path, per_batch: int = 4) -> NDArray[np.uint8]:
    """The five batches as Python 2 pickled them, and the pixels of all as (N, 3, 32, 32); label i of a batch is i."""
    images = pixels(5 * per_batch, 3, 32, 32)
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    meta = {"num_cases_per_batch": per_batch, "label_names": list(names), "num_vis": 3072}
    (folder / "batches.meta").write_bytes(python2_pickle(meta))
    for i in range(5):
        batch = {
            "batch_label": f"training batch {i + 1} of 5",
            "labels": list(range(per_batch)),
            "data": images[i * per_batch : (i + 1) * per_batch].reshape(per_batch, 3072),
            "filenames": [f"{j}.png" for j in range(per_batch)],
        }
        (folder / f"data_batch_{i + 1}").write_bytes(python2_pickle(batch))
    return images


class _Python2Pickler(pickle._Pickler):
    """Writes text and bytes alike as the byte strings of Python 2, which Python 3 has no way to ask for."""

    write: Callable[[bytes], object]
    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def save_string(self, text: str | bytes) -> None:
        raw = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)

    dispatch[str] = dispatch[bytes] = save_string


def python2_pickle(content: object) -> bytes:
    """Pickle as Python 2 did, with protocol 2 and numpy's old names."""
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


ATTRIBUTES = ("Male", "Smiling", "Young")
IDENTITIES = (2880, 7, 2880, 99, 7, 2880)


def write_celeba(root: Path, count: int = 6) -> NDArray[np.uint8]:
    """Faces of one colour each (JPEG keeps it), and their lists; image i has attribute a if bit a of i is set."""
    colours = pixels(count, 3) // 8 * 8
    names = [f"{i + 1:06}.jpg" for i in range(count)]
    for name, colour in zip(names, colours, strict=True):
        write_png(root / "img_align_celeba" / name, np.broadcast_to(colour, (218, 178, 3)).copy())
    rows = [" ".join([name, *(f"{1 if i >> a & 1 else -1:2}" for a in range(3))]) for i, name in enumerate(names)]
    header = [str(count), " ".join(ATTRIBUTES) + " "]
    (root / "list_attr_celeba.txt").write_text("\n".join([*header, *rows, ""]))
    identities = [f"{name} {identity}\n" for name, identity in zip(names, IDENTITIES, strict=True)]
    (root / "identity_CelebA.txt").write_text("".join(identities))
    return colours


def write_awa2(root: Path) -> NDArray[np.uint8]:
    """Two animals with two images each, of various sizes and one colour each, and three predicates."""
    colours = pixels(4, 3) // 8 * 8
    for i, (colour, size) in enumerate(zip(colours, [(20, 30), (40, 16), (16, 16), (17, 23)], strict=True)):
        animal = ("antelope", "grizzly+bear")[i // 2]
        path = root / "JPEGImages" / animal / f"{animal}_{i:05}.jpg"
        write_png(path, np.broadcast_to(colour, (*size, 3)).copy())
    (root / "classes.txt").write_text("     1\tantelope\n     2\tgrizzly+bear\n")
    (root / "predicates.txt").write_text("     1\tblack\n     2\twhite\n     3\thooves\n")
    (root / "predicate-matrix-binary.txt").write_text("0 1 1\n1 0 0\n")
    return colours


def write_brats(
    root: Path, patient: str, voxels: NDArray[Any], suffix: str = ".nii.gz", axes: tuple[int, ...] = (-1, -1, 1)
) -> Path:
    """The T1 volume of a patient; `axes` are the signs of its axes towards right, front and top, BraTS's by default."""
    path = root / f"BraTS20_Training_{patient}" / f"BraTS20_Training_{patient}_t1{suffix}"
    path.parent.mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([*axes, 1])), path)
    return path


def refused(config: DataConfig, *parts: str) -> None:
    """Check that loading fails with one line that begins with a setting and holds all `parts`."""
    with pytest.raises(DataError) as caught:
        load_images(config, seed=0)
    message = str(caught.value)
    assert message.startswith(("`dataset_path`", "`image_size`"))
    assert "\n" not in message
    for part in parts:
        assert part in message


def at(dataset: str, path: Path, image_size: int = 0, max_images: int = 0) -> DataConfig:
    return DataConfig((dataset,), (str(path),), image_size=image_size, max_images=max_images)


def in_chunks(config: DataConfig, size: int) -> torch.Tensor:
    """All pixels, read `size` images at a time."""
    source = LOADERS[config.name](config)
    return torch.cat([source.read(chunk) for chunk in torch.arange(len(source.labels)).split(size)])


def loaded(folder: Path, **settings: Any) -> ImageSet:
    return load_images(replace(at("imagefolder", folder), **settings), seed=0)
