"""Settings of the images and of their partition."""

from __future__ import annotations

import math
from dataclasses import dataclass

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.fields import NumberPairs, Numbers, TextLists, Texts, plain, setting

#: Data sets, by what they are on disk: nothing, our own forms, idx files, and what others publish.
DATASETS = (
    *("digits", "imagefolder", "npz", "hf"),
    *("mnist", "fashion_mnist", "kmnist", "notmnist"),
    *("cifar10", "cifar100", "celeba", "awa2", "brats2020", "medmnist"),
    *("nifti", "dicom"),
)
#: What `public.dataset` is where there are no public images.
NO_DATASET = "none"
#: Settings that say how files become images: to a client the same images, read in two ways, would be different ones.
READING = (
    *("data.background", "data.window", "data.max_pixels", "data.on_bad_file", "data.class_names", "data.split"),
    *("data.image_column", "data.label_column", "data.file_pattern", "data.slice_axis", "data.slices"),
)
#: Settings that only some data sets read, and these; those of other packages may read any.
READ_BY = {
    "data.class_attribute": ("celeba",),
    "data.class_names": ("imagefolder", "hf", "nifti", "dicom"),
    "data.split": (
        *("imagefolder", "npz", "hf", "mnist", "fashion_mnist", "kmnist", "notmnist"),
        *("cifar10", "cifar100", "celeba", "medmnist", "nifti", "dicom"),
    ),
    "data.image_column": ("hf",),
    "data.label_column": ("hf",),
    "data.file_pattern": ("nifti", "dicom"),
    "data.slice_axis": ("nifti",),
    "data.slices": ("nifti", "dicom"),
}
#: Ways to deal images by their classes alone.
LABEL_PARTITIONS = ("iid", "dirichlet", "by_class", "drop_classes")


@dataclass(frozen=True)
class PublicConfig:
    """Clean images that anybody has, on the server's disk, which it trains on beside the clients' uploads."""

    dataset: str = setting(
        NO_DATASET, "images of the same kind as the clients'", choices=(NO_DATASET, *DATASETS), or_path=True
    )
    dataset_path: str = setting("", "folder or file of `public.dataset`")
    max_images: int = setting(0, "use only this many public images, drawn by seed; 0: all", low=0)


def _deals(way: str) -> tuple[dict[str, object], ...]:
    """Where images are dealt in this way: all of them, or those of each domain."""
    return {"partition": way}, {"partition": "by_domain", "data.within_domain": way}


@dataclass(frozen=True)
class DataConfig:
    """Which images there are, what the networks are conditioned on, and how clients share them."""

    dataset: Texts = setting(
        ("digits",), "the images; a list takes several sets together", choices=DATASETS, or_path=True, top=True
    )
    dataset_path: Texts = setting(
        (), "folder or file of the data set, or one each of a list; digits needs none", top=True
    )
    image_size: int = setting(0, "images are resized to this many pixels a side; 0: their own size", low=0, top=True)
    codec: str = setting(
        "",
        "folder of a public autoencoder (diffusers' AutoencoderKL) in whose latents everything runs, or sha256:... of "
        "the one that clients have on machines of their own; empty: in pixels",
        top=True,
    )
    conditioning: str = setting(
        "classes", "what the networks are conditioned on", choices=("classes", "attributes", "none")
    )
    class_attribute: str = setting("", "attribute that gives the classes of celeba; empty: one class")
    max_images: int = setting(
        0, "use only this many images, drawn by seed, or by a deployed client's secret; 0: all", low=0
    )
    max_client_images: int = setting(0, "use only this many images of each client; 0: all", low=0)
    holdout_fraction: float = setting(0.2, "share of each client's images that is never trained on", above=0, high=0.9)
    merge_classes_by: str = setting(
        "name", "classes of several sets are the same if they share this", choices=("name", "number")
    )
    background: str = setting("black", "colour behind what is transparent in an image, by its name or as #rrggbb")
    window: Numbers = setting(
        (), "[low, high] of values that become black and white, of more than 8 bits; empty: the images' own range"
    )
    max_pixels: int = setting(178_956_970, "most pixels of an image before it is resized", low=1)
    on_bad_file: str = setting("refuse", "what is done about an image that cannot be read", choices=("refuse", "skip"))
    split: str = setting(
        "train", "images of which split are read, where a data set has several", choices=("train", "val", "test")
    )
    image_column: str = setting("", "column of the images in hf; empty: the only one that can be meant")
    label_column: str = setting("", "column of the classes in hf; empty: the only one that can be meant")
    file_pattern: str = setting("*", "names of the files that are read of nifti and dicom, as *_t1.nii.gz")
    slice_axis: str = setting(
        "axial", "slices of a volume in nifti lie in this plane", choices=("axial", "coronal", "sagittal")
    )
    slices: Numbers = setting((), "[first, last] slice that is read of a volume, counted from 0; empty: all")
    class_names: Texts = setting(
        (),
        "the classes of a set that has them by name, where it may lack some; empty: those that have images in it",
    )
    cache_path: str = setting("", "folder for decoded images; empty: collafuse_flwr in the user's cache")
    partition: str = setting(
        "dirichlet",
        "how images are dealt",
        choices=(*LABEL_PARTITIONS, "by_identity", "by_patient", "by_attribute", "by_domain"),
        top=True,
    )
    dirichlet_alpha: float = setting(
        0.3, "concentration of the Dirichlet distribution", above=0, when=_deals("dirichlet")
    )
    classes_per_client: int = setting(2, "classes that a client holds", low=1, when=_deals("by_class"))
    missing_classes: NumberPairs = setting(
        ((0.0, 0.33), (2.0, 0.40), (3.0, 0.13), (4.0, 0.13)),
        "[number of missing classes, share of the clients that miss so many], ...",
        when=_deals("drop_classes"),
    )
    size_skew: NumberPairs = setting(
        ((1.0, 1.0),),
        "[part of `data.max_client_images` or of an equal share, share of the clients that have as much], ...",
        when=_deals("drop_classes"),
    )
    attribute_groups: TextLists = setting(
        (), "the attributes of each client, as [[a,b],[c]]", when=({"partition": "by_attribute"},)
    )
    allow_overlap: bool = setting(
        False, "an image is with every client that it fits", when=({"partition": "by_attribute"},)
    )
    within_domain: str = setting(
        "iid", "how a data set is dealt among its clients", choices=LABEL_PARTITIONS, when=({"partition": "by_domain"},)
    )

    @property
    def name(self) -> str:
        """The data set, or all of them, in one word."""
        return "+".join(self.dataset)

    @property
    def path(self) -> str:
        """The one folder or file; empty where there is none."""
        return self.dataset_path[0] if self.dataset_path else ""


def reading(config: DataConfig) -> dict[str, object]:
    """How files become images: the settings of `READING` by name."""
    return {name: getattr(config, name.removeprefix("data.")) for name in READING}


def changed_reading(config: DataConfig) -> frozenset[str]:
    """The settings of `READING` that are not at their default, as name=value, [0,4095] for a list."""
    default, changed = reading(DataConfig()), set()
    for name, value in reading(config).items():
        items = value if isinstance(value, tuple) else ()
        listed = ",".join(f"{item:g}" if isinstance(item, float) else str(item) for item in items)
        if value != default[name]:
            changed.add(f"{name}=[{listed}]" if isinstance(value, tuple) else f"{name}={value}")
    return frozenset(changed)


def check_read(config: DataConfig) -> None:
    """Refuse a setting that none of the data sets reads.

    Raises:
        SettingError: it is not at its default.
    """
    if any(":" in name for name in config.dataset):
        return
    for name, readers in READ_BY.items():
        own = name.removeprefix("data.")
        value, default = getattr(config, own), getattr(DataConfig(), own)
        if value != default and not set(readers) & set(config.dataset):
            allowed = f"{plain(default) or 'empty'} unless `dataset` is {' or '.join(readers)}"
            raise SettingError(name, plain(value), allowed)


def background(config: DataConfig) -> tuple[int, int, int]:
    """The colour behind what is transparent, red, green and blue in 0..255.

    Raises:
        SettingError: it is no colour.
    """
    from PIL import ImageColor  # noqa: PLC0415 - settings are read where no image is

    try:
        red, green, blue = ImageColor.getrgb(config.background)[:3]
    except ValueError:
        raise SettingError("data.background", config.background, "a colour by its name, or as #rrggbb") from None
    return red, green, blue


def window(config: DataConfig) -> tuple[float, float] | None:
    """The values that become black and white; None where the images' own range says so.

    Raises:
        SettingError: it is neither empty nor two ascending numbers.
    """
    if not config.window:
        return None
    if len(config.window) != 2 or not config.window[0] < config.window[1]:
        raise SettingError("data.window", list(config.window), "empty, or two numbers, the lower one first: [0,4095]")
    return config.window[0], config.window[1]


def slices(config: DataConfig) -> tuple[int, int] | None:
    """The first and the last slice that is read of a volume; None where all are.

    Raises:
        SettingError: it is neither empty nor two ascending whole numbers from 0.
    """
    if not config.slices:
        return None
    whole = all(number >= 0 and number.is_integer() for number in config.slices)
    if len(config.slices) != 2 or not whole or config.slices[0] > config.slices[1]:
        allowed = "empty, or the first and the last one, whole numbers from 0: [60,99]"
        raise SettingError("data.slices", list(config.slices), allowed)
    return int(config.slices[0]), int(config.slices[1])


def missing_classes(config: DataConfig) -> dict[int, float]:
    """Number of missing classes -> share of the clients that miss so many; the shares add up to 1.

    Raises:
        SettingError: it is not what the setting may be.
    """
    wanted = "[whole number of classes, share of the clients above 0], each number once, as [[0,0.3],[2,0.7]]"
    pairs = config.missing_classes
    if not all(count >= 0 and float(count).is_integer() for count, _ in pairs):
        raise SettingError("data.missing_classes", [list(pair) for pair in pairs], wanted)
    shares = _shares("data.missing_classes", pairs, wanted)
    return {int(count): share for count, share in shares.items()}


def size_skew(config: DataConfig) -> dict[float, float]:
    """Part of what a client may have -> share of the clients that have as much; the shares add up to 1.

    Raises:
        SettingError: it is not what the setting may be.
    """
    wanted = "[part above 0 and at most 1, share of the clients above 0], each part once, as [[1,0.7],[0.5,0.3]]"
    pairs = config.size_skew
    if not all(0 < part <= 1 for part, _ in pairs):
        raise SettingError("data.size_skew", [list(pair) for pair in pairs], wanted)
    return _shares("data.size_skew", pairs, wanted)


def _shares(name: str, pairs: NumberPairs, wanted: str) -> dict[float, float]:
    shares = dict(pairs)
    if len(shares) < len(pairs) or not pairs or not all(0 < share < math.inf for share in shares.values()):
        raise SettingError(name, [list(pair) for pair in pairs], wanted)
    total = sum(shares.values())
    return {value: share / total for value, share in shares.items()}
