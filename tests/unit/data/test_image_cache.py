import multiprocessing
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from collafuse_flwr.core.errors import DataError
from collafuse_flwr.data.image_cache import CHUNK, cache_folder, cached_images, forget_old_sets
from collafuse_flwr.data.images import LazyImageDataset, center_crop_resize
from collafuse_flwr.data.settings import DataConfig


class Killed(BaseException):
    """Nothing catches it."""


class Files:
    """A set of `count` images, one raw file each, that counts how many it has decoded."""

    def __init__(self, folder: Path, count: int, grey: int = 0) -> None:
        folder.mkdir(exist_ok=True)
        self.paths = [folder / f"{i}.raw" for i in range(count)]
        self.grey, self.read_so_far, self.dies_after = grey, 0, 10 * count
        for i, path in enumerate(self.paths):
            path.write_bytes(np.random.default_rng(i).integers(0, 256, (3, 6, 8), dtype=np.uint8).tobytes())

    def image(self, i: int) -> Tensor:
        pixels = torch.frombuffer(bytearray(self.paths[i].read_bytes()), dtype=torch.uint8).view(1, 3, 6, 8)
        return pixels[:, :1] if i < self.grey else pixels

    def read(self, indices: Tensor) -> Tensor:
        if self.read_so_far + len(indices) > self.dies_after:
            raise Killed
        self.read_so_far += len(indices)
        images = [self.image(i) for i in indices.tolist()]
        channels = max(image.shape[1] for image in images)
        return torch.cat([image.expand(-1, channels, -1, -1) for image in images])

    def files(self, indices: Tensor) -> Iterable[Path]:
        return [self.paths[i] for i in indices.tolist()]

    @property
    def source(self) -> LazyImageDataset:
        return LazyImageDataset(torch.zeros(len(self.paths), dtype=torch.int64), ("one",), self.read, self.files)

    def expected(self, size: int, keep: Tensor) -> Tensor:
        return torch.cat([center_crop_resize(self.image(i), size).expand(-1, 3, -1, -1) for i in keep.tolist()])


def at(cache: Path, size: int = 4) -> DataConfig:
    return DataConfig(dataset=("imagefolder",), image_size=size, cache_path=str(cache))


def test_images_are_decoded_once(tmp_path: Path) -> None:
    files, keep = Files(tmp_path / "images", 20), torch.tensor([1, 3, 4, 19])
    config = at(tmp_path / "cache")
    first = cached_images(config, files.source, keep).pixels
    assert torch.equal(first, files.expected(4, keep))
    assert torch.equal(cached_images(config, files.source, keep).pixels, first)
    assert files.read_so_far == 4


def test_other_rows_sizes_and_contents_are_other_sets(tmp_path: Path) -> None:
    files, config, everything = Files(tmp_path / "images", 5), at(tmp_path / "cache"), torch.arange(5)
    cached_images(config, files.source, everything)
    for other, keep in ((config, everything[1:]), (replace(config, image_size=2), everything)):
        assert torch.equal(cached_images(other, files.source, keep).pixels, files.expected(other.image_size, keep))
    before = files.paths[2].stat()
    files.paths[2].write_bytes(bytes(3 * 6 * 8))
    os.utime(files.paths[2], ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert not cached_images(config, files.source, everything).pixels[2].any()


def test_a_copy_of_the_files_finds_what_is_decoded(tmp_path: Path) -> None:
    config, keep = at(tmp_path / "cache"), torch.arange(5)
    cached_images(config, Files(tmp_path / "images", 5).source, keep)
    copy = Files(tmp_path / "copy", 5)
    assert torch.equal(cached_images(config, copy.source, keep).pixels, copy.expected(4, keep))
    assert copy.read_so_far == 0


def test_a_killed_decoding_goes_on(tmp_path: Path) -> None:
    files, keep = Files(tmp_path / "images", 2 * CHUNK + 5), torch.arange(2 * CHUNK + 5)
    config, files.dies_after = at(tmp_path / "cache"), CHUNK + 1
    with pytest.raises(Killed):
        cached_images(config, files.source, keep)
    files.dies_after = len(keep)
    assert torch.equal(cached_images(config, files.source, keep).pixels, files.expected(4, keep))
    assert files.read_so_far == len(keep)
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [
        ".content",
        ".lock",
        ".npy",
        ".report",
        ".sides",
    ]


def test_native_sides_are_kept_and_a_cache_without_them_is_none(tmp_path: Path) -> None:
    files, keep = Files(tmp_path / "images", 5), torch.arange(5)
    config = at(tmp_path / "cache")
    assert cached_images(config, files.source, keep).native_sides.tolist() == [6] * 5
    assert cached_images(config, files.source, keep).native_sides.tolist() == [6] * 5
    assert files.read_so_far == 5
    next((tmp_path / "cache").glob("*.sides")).unlink()
    assert cached_images(config, files.source, keep).native_sides.tolist() == [6] * 5
    assert files.read_so_far == 10


def test_the_sets_that_were_used_last_are_kept(tmp_path: Path) -> None:
    files, keep, cache = Files(tmp_path / "images", 5), torch.arange(5), tmp_path / "cache"
    for number, size in enumerate((2, 3, 4, 5)):
        cached_images(at(cache, size), files.source, keep)
        for path in cache.glob("*.npy"):
            if path.stat().st_mtime > 100:
                for part in cache.glob(f"{path.stem}.*"):
                    os.utime(part, (number, number))
    cached_images(at(cache, 2), files.source, keep)
    forget_old_sets(cache, 2)
    assert sorted(path.suffix for path in cache.iterdir()) == [
        ".content",
        ".lock",
        ".lock",
        ".npy",
        ".npy",
        ".report",
        ".report",
        ".sides",
        ".sides",
    ]
    before = files.read_so_far
    for size in (2, 5):
        cached_images(at(cache, size), files.source, keep)
    assert files.read_so_far == before


def test_processes_share_one_decoding(tmp_path: Path) -> None:
    files, keep = Files(tmp_path / "images", 30), torch.arange(30)
    config = at(tmp_path / "cache")
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=cached_images, args=(config, files.source, keep)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    files.dies_after = 0
    assert torch.equal(cached_images(config, files.source, keep).pixels, files.expected(4, keep))


def test_greyscale_becomes_rgb_when_colour_comes_late(tmp_path: Path) -> None:
    count = CHUNK + 3
    files = Files(tmp_path / "images", count, grey=CHUNK + 1)
    images = cached_images(at(tmp_path / "cache"), files.source, torch.arange(count)).pixels
    assert torch.equal(images, files.expected(4, torch.arange(count)))


def test_writing_to_the_images_changes_no_file(tmp_path: Path) -> None:
    files, keep = Files(tmp_path / "images", 5), torch.arange(5)
    config = at(tmp_path / "cache")
    cached_images(config, files.source, keep).pixels.zero_()
    assert torch.equal(cached_images(config, files.source, keep).pixels, files.expected(4, keep))


def test_what_is_in_memory_is_not_written(tmp_path: Path) -> None:
    images = torch.arange(32, dtype=torch.uint8).view(2, 1, 4, 4)
    source = LazyImageDataset(torch.zeros(2, dtype=torch.int64), ("one",), lambda keep: images[keep])
    assert torch.equal(cached_images(at(tmp_path / "cache"), source, torch.tensor([1])).pixels, images[1:])
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        DataError, match=r"^`data.cache_path` = '.*file/cache': decoded images cannot be kept .* expected"
    ):
        cached_images(at(tmp_path / "file" / "cache"), Files(tmp_path / "images", 3).source, torch.arange(3))


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder(DataConfig()) == tmp_path / "collafuse_flwr"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder(DataConfig()) == Path.home() / ".cache" / "collafuse_flwr"
    assert cache_folder(DataConfig(cache_path="~/kept")) == Path.home() / "kept"


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is measured as Linux tells it")
def test_a_large_set_does_not_need_its_size_in_memory(tmp_path: Path) -> None:
    count, image = 30_000, torch.arange(3 * 32 * 32).remainder(251).to(torch.uint8).view(3, 32, 32)
    whole = tmp_path / "whole"
    whole.touch()
    seen = [own_megabytes()]

    def read(indices: Tensor) -> Tensor:
        seen.append(own_megabytes())
        return image.repeat(len(indices), 1, 1, 1)

    source = LazyImageDataset(torch.zeros(count, dtype=torch.int64), ("one",), read, lambda _: [whole])
    images = cached_images(at(tmp_path / "cache", 32), source, torch.arange(count)).pixels
    assert torch.equal(images[count - 1], image)
    assert images.numel() > 90e6
    assert max(*seen, own_megabytes()) - seen[0] < 30


def own_megabytes() -> float:
    """Memory of this process that is no file's."""
    lines = dict(line.split()[:2] for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return int(lines["Anonymous:"]) / 1024
