"""The pool gives back what was put in, in the units of x_k, whoever sent it and in whatever order."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collafuse_flwr.privacy.release import Upload, UploadDtype, encode
from collafuse_flwr.runs.upload_buffer import UploadBuffer

ROW = (2, 3, 3)
CPU = torch.device("cpu")


def a_pool(folder: Path, dtype: str = "float32") -> UploadBuffer:
    return UploadBuffer(folder / "pool", ROW, dtype, CPU)


def an_upload(rows: int, seed: int, dtype: UploadDtype = "float32", labels: bool = True) -> Upload:
    generator = torch.Generator().manual_seed(seed)
    x_k = (1 + seed) * torch.randn((rows, *ROW), generator=generator)
    return encode(x_k, dtype, torch.randint(0, 10, (rows,), generator=generator) if labels else None)


def assert_holds(pool: UploadBuffer, client: int, upload: Upload, cut: int) -> None:
    """The client's rows of the pool are those of this upload."""
    share = pool.shares[client]
    assert (share.rows, share.cut) == (len(upload), cut)
    x_k, cuts, labels = pool.batch(torch.arange(share.begin, share.begin + share.rows))
    assert x_k.dtype == torch.float32
    expected = upload.x_k.astype(np.float32) * np.float32(upload.scale)
    assert np.array_equal(x_k.numpy(), expected)
    assert cuts.tolist() == [cut] * len(upload)
    own = pool.labels_of(client)
    assert (labels is None) == (own is None) == (upload.labels is None)
    if labels is not None and own is not None:
        assert labels.tolist() == own.tolist() == list(upload.labels)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
@pytest.mark.parametrize("labels", [True, False])
def test_every_client_finds_its_rows_with_its_own_cut_and_scale(
    tmp_path: Path, dtype: UploadDtype, labels: bool
) -> None:
    pool = a_pool(tmp_path, dtype)
    uploads = {client: an_upload(rows, client, dtype, labels) for client, rows in ((7, 4), (0, 1), (3, 5))}
    for client, upload in uploads.items():
        pool.add(client, 10 * client, upload)
        assert_holds(pool, client, upload, 10 * client)
    assert len(pool) == 10
    for client, upload in uploads.items():
        assert client in pool
        assert_holds(pool, client, upload, 10 * client)
    assert 1 not in pool


def test_attributes_are_kept_as_bytes(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    pool = UploadBuffer(tmp_path / "pool", ROW, "int8", CPU, num_attributes=5)
    attributes = {
        client: torch.randint(0, 2, (rows, 5), generator=generator).byte() for client, rows in ((4, 3), (1, 2))
    }
    for client, own in attributes.items():
        pool.add(client, 10, encode(torch.randn((len(own), *ROW), generator=generator), "int8", own))
    for client, own in attributes.items():
        assert torch.equal(pool.labels_of(client), own)  # type: ignore[arg-type]
    _, _, labels = pool.batch(torch.tensor([4, 0, 4]))
    assert labels is not None
    assert torch.equal(labels, torch.stack([attributes[1][1], attributes[4][0], attributes[1][1]]))
    assert (tmp_path / "pool" / "labels.bin").stat().st_size == 5 * 5


def test_an_empty_pool_holds_nothing(tmp_path: Path) -> None:
    pool = a_pool(tmp_path)
    assert len(pool) == 0
    assert 0 not in pool
    assert pool.state() == {}


def test_rows_are_kept_in_the_type_they_travelled_in(tmp_path: Path) -> None:
    """A row of int8 takes a byte a value, however many there are, and four for its scale."""
    for dtype, width in (("int8", 1), ("float16", 2), ("float32", 4)):
        pool = a_pool(tmp_path / dtype, dtype)
        pool.add(0, 5, an_upload(6, 0, dtype))  # type: ignore[arg-type]
        assert (pool.folder / "x_k.bin").stat().st_size == 6 * (4 + 18 * width)
        assert (pool.folder / "labels.bin").stat().st_size == 6 * 8


@pytest.mark.parametrize("rows", [torch.tensor([9, 0, 4, 4, 0]), torch.tensor([], dtype=torch.int64)])
def test_a_batch_has_the_requested_rows_in_their_order_and_as_often(tmp_path: Path, rows: torch.Tensor) -> None:
    pool, uploads = a_pool(tmp_path, "int8"), [an_upload(5, seed, "int8") for seed in (0, 1)]
    for client, upload in enumerate(uploads):
        pool.add(client, client, upload)
    x_k, cuts, labels = pool.batch(rows)
    decoded = np.concatenate([u.x_k.astype(np.float32) * np.float32(u.scale) for u in uploads])
    assert np.array_equal(x_k.numpy(), decoded[rows.numpy()])
    assert cuts.tolist() == [int(row >= 5) for row in rows.tolist()]
    assert labels is not None
    everything = np.concatenate([u.labels for u in uploads if u.labels is not None])
    assert labels.tolist() == everything[rows.numpy()].tolist()


def test_a_batch_is_a_copy(tmp_path: Path) -> None:
    pool, upload = a_pool(tmp_path), an_upload(3, 0)
    pool.add(0, 5, upload)
    for values in pool.batch(torch.arange(3)):
        assert values is not None
        values.zero_()
    labels = pool.labels_of(0)
    assert labels is not None
    labels.zero_()
    assert_holds(pool, 0, upload, 5)


def test_a_new_upload_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    """With `fresh` uploads the pool never grows, and what it held of the client before is gone from the disk."""
    pool = a_pool(tmp_path, "int8")
    for client in range(3):
        pool.add(client, 5, an_upload(4, client, "int8"))
    old, new = an_upload(4, 1, "int8"), an_upload(4, 9, "int8")
    pool.add(1, 5, new)
    assert len(pool) == 12
    assert_holds(pool, 1, new, 5)
    for client in (0, 2):
        assert_holds(pool, client, an_upload(4, client, "int8"), 5)
    held = (pool.folder / "x_k.bin").read_bytes()
    assert all(row.tobytes() not in held for row in old.x_k)
    assert all(row.tobytes() in held for row in new.x_k)
    assert len(held) == 12 * (4 + 18)


def test_an_upload_at_another_cut_leaves_what_a_checkpoint_may_go_back_to(tmp_path: Path) -> None:
    pool, before, after = a_pool(tmp_path, "int8"), an_upload(4, 1, "int8"), an_upload(4, 9, "int8")
    for client in range(3):
        pool.add(client, 8, an_upload(4, client, "int8"))
    checkpoint = pool.state()
    pool.add(1, 5, after)
    assert len(pool) == 12
    assert_holds(pool, 1, after, 5)
    source = pool.limited(dict.fromkeys(range(3), 4.0))
    _, cuts, _ = source.batch(torch.arange(len(source)))
    assert sorted(cuts.tolist()) == [5] * 4 + [8] * 8, "what was given up is trained on no more"
    pool.restore(checkpoint)
    assert_holds(pool, 1, before, 8)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 99)), max_size=8), st.integers(0, 8))
def test_puts_and_restarts_in_any_order_lose_nothing(
    tmp_path_factory: pytest.TempPathFactory, puts: list[tuple[int, int]], restart: int
) -> None:
    """Client c has c + 1 rows; the last upload of each is held, also by a pool that takes up where another stopped."""
    folder = tmp_path_factory.mktemp("pool")
    pool, last = a_pool(folder, "int8"), dict[int, int]()
    for step, (client, seed) in enumerate(puts):
        if step == restart:
            described, pool = pool.state(), a_pool(folder, "int8")
            pool.restore(described)
        pool.add(client, seed, an_upload(client + 1, seed, "int8"))
        last[client] = seed
    assert len(pool) == sum(client + 1 for client in last)
    for client, seed in last.items():
        assert_holds(pool, client, an_upload(client + 1, seed, "int8"), seed)


def test_bytes_of_a_round_that_was_cut_off_are_not_part_of_the_pool(tmp_path: Path) -> None:
    """And the next upload is written over them."""
    pool = a_pool(tmp_path)
    pool.add(0, 5, an_upload(4, 0))
    described = pool.state()
    pool.add(1, 5, an_upload(7, 1))
    resumed = a_pool(tmp_path)
    resumed.restore(described)
    assert len(resumed) == 4
    assert 1 not in resumed
    assert_holds(resumed, 0, an_upload(4, 0), 5)
    resumed.add(2, 6, an_upload(2, 2))
    assert_holds(resumed, 2, an_upload(2, 2), 6)
    assert_holds(resumed, 0, an_upload(4, 0), 5)


def test_rows_that_were_replaced_in_a_round_that_was_cut_off_are_read_as_they_were_sent(tmp_path: Path) -> None:
    """The checkpoint is older than the rows (`fresh` uploads), and the client may not send them again."""
    pool, old, new = a_pool(tmp_path, "int8"), an_upload(4, 0, "int8"), an_upload(4, 9, "int8")
    assert new.scale > 2 * old.scale
    pool.add(0, 5, old)
    described = pool.state()
    pool.add(0, 5, new)
    resumed = a_pool(tmp_path, "int8")
    resumed.restore(described)
    assert_holds(resumed, 0, new, 5)


def test_a_pool_that_is_restored_forgets_what_it_had_opened(tmp_path: Path) -> None:
    pool = a_pool(tmp_path)
    pool.add(0, 5, an_upload(4, 0))
    described = pool.state()
    pool.add(1, 8, an_upload(4, 1))
    pool.batch(torch.arange(8))
    pool.restore(described)
    with pytest.raises(IndexError):
        pool.batch(torch.tensor([7]))


def test_the_description_is_json_of_what_is_needed_to_read_the_files(tmp_path: Path) -> None:
    pool = a_pool(tmp_path, "int8")
    pool.add(12, 5, an_upload(4, 3, "int8"))
    state = json.loads(json.dumps(pool.state()))
    assert state == {"12": {"begin": 0, "rows": 4, "cut": 5, "crc32": state["12"]["crc32"]}}


@pytest.mark.parametrize("name", ["x_k.bin", "labels.bin"])
@pytest.mark.parametrize("damage", ["flipped", "truncated", "gone"])
def test_damaged_rows_are_left_out_until_they_come_again(tmp_path: Path, name: str, damage: str) -> None:
    pool, uploads = a_pool(tmp_path), {client: an_upload(3, client) for client in (0, 1, 2)}
    for client, upload in uploads.items():
        pool.add(client, 10, upload)
    state, path = pool.state(), tmp_path / "pool" / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data if damage == "flipped" else data[:-17])
    again = a_pool(tmp_path)
    again.restore(state)
    assert again.lost == ({2} if damage != "gone" else {0, 1, 2})
    assert (2 in again, 2 in again.sizes()) == (False, False)
    if damage != "gone":
        assert_holds(again, 0, uploads[0], 10)
        rows = again.limited({0: 9, 1: 9, 2: 9})
        assert len(rows) == 6
        assert torch.equal(rows.batch(torch.arange(6))[0], pool.batch(torch.arange(6))[0])
    for client in sorted(again.lost):
        again.add(client, 10, uploads[client])
    assert again.limited({0: 9, 1: 9, 2: 9}) is again
    assert again.state() == state
    for client, upload in uploads.items():
        assert_holds(again, client, upload, 10)
