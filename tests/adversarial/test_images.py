"""An operator who chooses the size, the number and the shares of images so that more leaves than one noised copy."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from collafuse_flwr import client_app
from collafuse_flwr.core.errors import PolicyError
from collafuse_flwr.data.datasets import LOADERS
from collafuse_flwr.data.image_cache import KEPT_SETS
from collafuse_flwr.data.images import normalize
from collafuse_flwr.diffusion.schedule import make_schedule
from collafuse_flwr.privacy.leakage_bounds import snr_db
from collafuse_flwr.privacy.ledger import Ledger
from collafuse_flwr.wire.codec import ClientError
from collafuse_flwr.wire.collafuse import SampleHandoff
from collafuse_flwr.wire.common import EvaluateReply
from tests.adversarial.node import OPEN, Node, some_images

CUT_RATIO = 0.8
ALPHA_BAR = float(make_schedule("linear", 100).alpha_bar[80])
#: Of one noised value at that cut.
OWN_DB = snr_db(ALPHA_BAR)


def refused(reply: Any, limit: str) -> None:
    assert isinstance(reply, ClientError), reply
    assert f"beyond the policy of this client's owner: `{limit}`" in reply.reason


def allowing(decibels: float) -> str:
    return f"max_snr_db = {decibels}\nmin_batch_size = 1\n"


def averaged_db(node: Node, upload: Tensor, size: int, **settings: Any) -> float:
    """The signal-to-noise ratio of the means of squares of `size` pixels a side."""
    noise = node.in_order(upload) / ALPHA_BAR**0.5 - node.x_0(**settings)
    return float(-10 * avg_pool2d(noise, size).square().mean().log10())


def test_the_mean_of_an_enlarged_image_counts(tmp_path: Path) -> None:
    """At 8 times the side each pixel came with 64 noises of its own: 18 dB, at a ratio that the policy allows."""
    (tmp_path / "open").mkdir()
    node = Node(tmp_path / "open", OPEN)
    upload = node.upload(cut_ratio=CUT_RATIO, image_size=64)
    assert upload is not None
    gained = averaged_db(node, upload, 8, image_size=64)
    assert gained == pytest.approx(OWN_DB + 10 * np.log10(64), abs=0.5)
    assert 10 * np.log10(Ledger(node.state / "ledger.jsonl").exposure().snr) == pytest.approx(gained, abs=0.5)

    node = Node(tmp_path, allowing(OWN_DB + 1))
    refused(node.train(cut_ratio=CUT_RATIO, image_size=64), "max_snr_db")
    refused(node.train(2, cut_ratio=CUT_RATIO, image_size=16), "max_snr_db")
    handoff = SampleHandoff(round=2, x_k=torch.zeros(2, 1, 16, 16))
    refused(node.ask("evaluate", handoff, EvaluateReply, cut_ratio=CUT_RATIO, image_size=16), "max_snr_db")
    assert node.upload(3, cut_ratio=CUT_RATIO) is not None


def test_epsilon_counts_what_is_released_and_bits_the_images(tmp_path: Path) -> None:
    """mu = 2 C sqrt(snr) with the norm of the enlarged image: more by the square root of the values for each."""
    mu, bits = [], []
    for size in (8, 32):
        (tmp_path / str(size)).mkdir()
        node = Node(tmp_path / str(size), OPEN + 'numbers = ["bits"]\nmin_number_images = 1\n')
        settings: dict[str, Any] = {"cut_ratio": 0.4, "image_size": size}
        assert node.upload(**settings) is not None
        handoff = SampleHandoff(round=1, x_k=torch.zeros(2, 1, size, size))
        reply = node.ask("evaluate", handoff, EvaluateReply, **settings)
        mu.append(reply.release_mu)
        bits.append(reply.bits)
    assert mu[1] == pytest.approx(4 * mu[0])
    assert 1.5 * bits[0] < bits[1]


def write_folder(folder: Path, images: list[np.ndarray[Any, Any]]) -> None:
    (folder / "images" / "one").mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / "images" / "one" / f"{i:02}.png")


COLOUR = some_images(60).reshape(20, 3, 8, 8).transpose(0, 2, 3, 1).copy()


@pytest.mark.parametrize(
    ("images", "odd", "decibels"),
    [
        (some_images(20), some_images(1, 4)[0], 10 * np.log10(4)),
        (COLOUR, some_images(1)[0], 10 * np.log10(3)),
        (some_images(20), COLOUR[0], 0.0),
        (some_images(20), some_images(1, 30)[0, :, :8].repeat(2, axis=1), 0.0),
    ],
    ids=["a smaller one", "a grey one among colour ones", "a colour one among grey ones", "one that is cropped"],
)
def test_one_image_that_is_enlarged_counts_for_all(
    tmp_path: Path, images: np.ndarray[Any, Any], odd: np.ndarray[Any, Any], decibels: float
) -> None:
    """A folder of several sizes has one ratio, that of its smallest image; grey ones in RGB have each value thrice."""
    write_folder(tmp_path, [*images, odd, odd])
    node = Node(tmp_path, allowing(OWN_DB + decibels + 0.1))
    node.node["data-path"] = str(tmp_path / "images")
    settings: dict[str, Any] = {"dataset": "imagefolder", "cut_ratio": CUT_RATIO, "image_size": 8}
    # One image is held out, so one of the two is not.
    settings["data__holdout_fraction"] = 1e-6
    upload = node.upload(**settings)
    assert upload is not None
    counted = 10 * np.log10(Ledger(node.state / "ledger.jsonl").exposure().snr)
    assert counted == pytest.approx(OWN_DB + decibels, abs=0.01)
    (tmp_path / "policy.toml").write_text(allowing(OWN_DB + decibels - 0.1))
    refused(node.train(2, **settings), "max_snr_db")


# Which images.


def released(node: Node, everything: Tensor, run: int, **settings: Any) -> set[int]:
    """Which of all images are in an upload at a cut that hides nothing."""
    upload = node.upload(run=run, cut_ratio=0.02, **settings)
    assert upload is not None
    rows = torch.cdist(upload.flatten(1), everything.flatten(1)).argmin(dim=1)
    assert len(rows.unique()) == len(rows)
    return set(rows.tolist())


def test_runs_differ_by_where_they_end(tmp_path: Path) -> None:
    """By seed, number and share of images each run released another subset; intersections named the rows."""
    images = some_images(60)
    node = Node(tmp_path, OPEN, images=images)
    everything = normalize(torch.from_numpy(images))[:, None]
    runs: tuple[dict[str, Any], ...] = (
        {},
        {"seed": 1},
        {"seed": 2, "data__max_images": 30},
        {"data__max_images": 31},
        {"data__holdout_fraction": 0.5},
        {"data__holdout_fraction": 0.7, "seed": 3},
        {"data__holdout_fraction": 0.4, "data__max_images": 40},
        {"data__conditioning": "none"},
    )
    sets = [released(node, everything, run, **settings) for run, settings in enumerate(runs, 1)]
    assert len({len(own) for own in sets}) > 4
    ordered = sorted(sets, key=len)
    assert all(smaller <= larger for smaller, larger in pairwise(ordered))
    # A secret order: not that of the files.
    assert ordered[0] != set(range(len(ordered[0])))
    assert ordered[0] != set(range(60 - len(ordered[0]), 60))


def test_labels_choose_no_image(tmp_path: Path) -> None:
    """The held-out part was drawn alike from every class: how many of a class are released follows from its size."""
    images = some_images(30)
    sets: list[set[int]] = []
    everything = normalize(torch.from_numpy(images))[:, None]
    for labels in (np.arange(30) % 3, np.zeros(30, int), np.arange(30) // 10):
        folder = tmp_path / str(len(sets))
        folder.mkdir()
        node = Node(folder, OPEN, images=images)
        np.savez(folder / "images.npz", images=images, labels=labels)
        node.state.mkdir()
        (node.state / "secret").write_bytes(bytes(range(16)))
        sets.append(released(node, everything, len(sets) + 1))
    assert sets[0] == sets[1] == sets[2]


def test_three_equal_images_do_not_show_by_whose_noise_comes_again(tmp_path: Path) -> None:
    """Were parts of the order not nested, {a, a} and {a, a} would share both rows, and {a, b} and {b, c} only one."""
    images = some_images(30)
    images[:20] = images[0]
    node = Node(tmp_path, OPEN, images=images)
    rows = []
    for run, share in enumerate((0.2, 0.3, 0.5), 1):
        upload = node.upload(run=run, cut_ratio=0.5, data__holdout_fraction=share)
        assert upload is not None
        rows.append({row.numpy().tobytes() for row in upload})
        assert len(rows[-1]) == len(upload) == 30 - round(30 * share)
    assert rows[2] < rows[1] < rows[0]


# How large, and how many.


@pytest.mark.parametrize("size", [1025, 100_000])
def test_no_image_is_decoded_at_a_size_that_may_not_leave(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes were held against the policy when all images had been read, and nothing limited them by itself."""

    def reads(*_: object) -> None:
        raise PolicyError("read")

    monkeypatch.setattr(client_app, "load_client_data", reads)
    refused(Node(tmp_path).train(image_size=size), "max_image_size")
    refused(Node(tmp_path, "min_image_size = 4\n").train(image_size=3), "min_image_size")
    assert Node(tmp_path).train(image_size=1024).reason == "read"


def test_decoded_images_fill_no_disk(tmp_path: Path) -> None:
    """Each size and number of images left another set in `state-path`, and none ever went."""
    node = Node(tmp_path, OPEN)
    for run in range(1, KEPT_SETS + 4):
        node.train(run=run, cut_ratio=0.9, image_size=8 + run % 2, data__max_images=13 + run)
    kept = sorted(path.suffix for path in (node.state / "decoded").iterdir())
    assert kept.count(".npy") == KEPT_SETS
    # Of each set its pixels, sides, report, lock and a note.
    assert len(kept) <= 5 * KEPT_SETS


@pytest.mark.parametrize(
    ("x_k", "labels"),
    [
        (torch.zeros(4, 1, 16, 16), None),
        (torch.zeros(4, 3, 8, 8), None),
        (torch.zeros(4, 64), None),
        (torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])),
        (torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 2, -1])),
        (torch.zeros(4, 1, 8, 8), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(4, 1, 8, 8), torch.zeros(4, 2, dtype=torch.uint8)),
        (torch.zeros(4, 1, 8, 8), torch.zeros(4)),
    ],
)
def test_hand_overs_are_samples_of_such_images(tmp_path: Path, x_k: Tensor, labels: Tensor | None) -> None:
    handoff = SampleHandoff(round=1, x_k=x_k, labels=labels)
    reply = Node(tmp_path).ask("evaluate", handoff, EvaluateReply, cut_ratio=0.5)
    assert isinstance(reply, ClientError)
    assert "beyond the policy" in reply.reason


@pytest.mark.parametrize("count", [0, 4])
def test_as_many_samples_as_the_owner_allows(tmp_path: Path, count: int) -> None:
    node = Node(tmp_path, OPEN + "max_samples = 3\n")
    handoff = SampleHandoff(round=1, x_k=torch.zeros(count, 1, 8, 8))
    quick: dict[str, Any] = {"cut_ratio": 0.5, "evaluation__num_samples": 3}
    refused(node.ask("evaluate", handoff, EvaluateReply, **quick), "max_samples")
    refused(node.train(2, evaluation__num_samples=4), "max_samples")


def test_draws_are_not_counted_one_by_one(tmp_path: Path) -> None:
    """The list of 10^9 draws was made before it was held against the policy."""
    refused(Node(tmp_path).train(upload__draws_per_image=10**9, cut_ratio=0.9), "max_releases")


@pytest.mark.parametrize(
    "settings",
    [
        {"data__window": "[0,100]"},
        {"data__background": "white"},
        {"data__on_bad_file": "skip"},
        {"data__max_pixels": 10**9},
        {"data__class_names": '["a","b"]', "dataset": "imagefolder"},
        {"data__split": "test"},
        {"data__label_column": "diagnosis", "dataset": "hf"},
        {"data__slice_axis": "sagittal", "dataset": "nifti"},
        {"data__slices": "[0,9]", "dataset": "nifti"},
        {"data__file_pattern": "a*", "dataset": "nifti"},
    ],
)
def test_how_files_become_images_is_the_owners(tmp_path: Path, settings: dict[str, Any]) -> None:
    """The same image, scaled in another way, would leave as another one with noise of its own."""
    refused(Node(tmp_path).train(cut_ratio=0.5, **settings), "reading")


def test_another_kind_that_reads_the_same_file_releases_nothing_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One slice of a volume was released twice, as `brats2020` and as `nifti` scale it, with independent noise."""
    monkeypatch.setitem(LOADERS, "medmnist", LOADERS["npz"])
    node = Node(tmp_path)
    assert node.upload(cut_ratio=0.5) is not None
    refused(node.train(run=2, cut_ratio=0.5, dataset="medmnist"), "datasets")
    assert node.upload(run=3, cut_ratio=0.5) is not None
    (tmp_path / "both").mkdir()
    both = Node(tmp_path / "both", 'datasets = ["npz", "medmnist"]\n')
    assert both.upload(cut_ratio=0.5) is not None
    assert both.upload(run=2, cut_ratio=0.5, dataset="medmnist") is not None


def test_an_owner_says_how_files_become_images(tmp_path: Path) -> None:
    node = Node(tmp_path, 'reading = ["data.window=[0,4095]"]\n')
    refused(node.train(cut_ratio=0.5), "reading")
    refused(node.train(run=2, cut_ratio=0.5, data__window="[0,100]"), "reading")
    assert not isinstance(node.train(run=3, cut_ratio=0.5, data__window="[0,4095]"), ClientError)
