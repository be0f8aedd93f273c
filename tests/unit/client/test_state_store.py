"""A client's disk: a secret that never changes, and the state after the last rounds, whole."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from collafuse_flwr.client.state_store import KEPT_ROUNDS, KEPT_RUNS, ClientState, ClientStore
from collafuse_flwr.core import tensor_io as files
from collafuse_flwr.privacy.brownian_noise import brownian_path


class Killed(BaseException):
    """Stands for the end of the process."""


def tensors(value: float = 0.0) -> dict[str, Tensor]:
    return {"network.weight": torch.full((2, 3), value), "steps": torch.tensor(int(value))}


def rounds_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def dies_half_way(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    Path(path).write_bytes(b"half")
    raise Killed


# The secret.


@pytest.mark.parametrize("seed", [None, 0])
def test_the_secret_is_made_once_and_then_read(tmp_path: Path, seed: int | None) -> None:
    first = ClientStore(tmp_path / "new").secret(seed, 3)
    assert len(first) == 16
    assert ClientStore(tmp_path / "new").secret(seed, 3) == first
    assert ClientStore(tmp_path / "new").secret(99, 7) == first, "whatever is requested later"
    assert rounds_in(tmp_path / "new") == ["secret"]


@pytest.mark.parametrize("seed", [None, 0])
def test_only_its_owner_may_read_the_secret(tmp_path: Path, seed: int | None) -> None:
    ClientStore(tmp_path).secret(seed, 3)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_the_secret_is_private_before_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or for a moment anyone could open it."""
    modes, original = [], Path.write_bytes

    def watched(self: Path, data: Any) -> int:
        modes.append(stat.S_IMODE(self.stat().st_mode) if self.exists() else None)
        return original(self, data)

    monkeypatch.setattr(Path, "write_bytes", watched)
    ClientStore(tmp_path).secret(None, 3)
    assert modes == [0o600]


def test_with_a_seed_the_secret_follows_from_seed_and_client(tmp_path: Path) -> None:
    def made(folder: str, seed: int, client: int) -> bytes:
        return ClientStore(tmp_path / folder).secret(seed, client)

    first = made("a", 0, 3)
    assert made("b", 0, 3) == first
    assert len({first, made("c", 0, 4), made("d", 1, 3)}) == 3


def test_without_a_seed_the_secret_comes_from_the_operating_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeding every generator there is does not repeat it."""
    made = set()
    for name in "ab":
        torch.manual_seed(0)
        np.random.seed(0)
        made.add(ClientStore(tmp_path / name).secret(None, 0))
    assert len(made) == 2
    monkeypatch.setattr("secrets.token_bytes", lambda count: b"s" * count)
    assert ClientStore(tmp_path / "c").secret(None, 0) == b"s" * 16


def test_the_secret_keys_the_noise_of_a_release(tmp_path: Path) -> None:
    assert brownian_path(ClientStore(tmp_path).secret(None, 0), b"", (4,), 0.5).shape == (4,)


def test_a_client_killed_while_it_makes_its_secret_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.write_bytes

    def dies(self: Path, data: Any) -> int:
        original(self, data[:7])
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", dies)
        with pytest.raises(Killed):
            ClientStore(tmp_path).secret(None, 0)
    assert not rounds_in(tmp_path)
    assert len(ClientStore(tmp_path).secret(None, 0)) == 16


# The state after a round.


def test_a_new_client_has_no_past(tmp_path: Path) -> None:
    assert ClientStore(tmp_path / "nothing").load(before=1) == (ClientState(), {})


@settings(max_examples=30)
@given(st.builds(ClientState, st.integers(1, 999999), st.integers(0, 99), st.floats(0, 1e9), st.booleans()))
def test_a_ledger_survives_to_the_last_bit(tmp_path_factory: pytest.TempPathFactory, ledger: ClientState) -> None:
    folder = tmp_path_factory.mktemp("client")
    ClientStore(folder).save(ledger, tensors())
    assert ClientStore(folder).load(before=ledger.round + 1)[0] == ledger


def test_tensors_survive_with_their_types(tmp_path: Path) -> None:
    given_ = {
        "a": torch.randn(2, 3),
        "b": torch.tensor(7),
        "c": torch.zeros(0),
        "d": torch.ones(2, dtype=torch.bfloat16),
    }
    ClientStore(tmp_path).save(ClientState(1), given_)
    _, back = ClientStore(tmp_path).load(before=2)
    assert back.keys() == given_.keys()
    for name, value in given_.items():
        assert back[name].dtype == value.dtype
        assert torch.equal(back[name], value)


def test_a_client_without_a_network_keeps_its_ledger(tmp_path: Path) -> None:
    """As at cut 0, or while it waits for the backbone."""
    ClientStore(tmp_path).save(ClientState(4, deferred_updates=12.5), {})
    assert ClientStore(tmp_path).load(before=5) == (ClientState(4, deferred_updates=12.5), {})


def test_the_newest_state_before_the_round_is_loaded_and_later_ones_go(tmp_path: Path) -> None:
    """A server that was killed in round 3 asks for round 3 again."""
    store = ClientStore(tmp_path)
    for round_ in (2, 3):
        store.save(ClientState(round_), tensors(round_))
    ledger, state = store.load(before=3)
    assert ledger.round == 2
    assert torch.equal(state["network.weight"], tensors(2)["network.weight"])
    assert rounds_in(tmp_path) == ["state-000002.safetensors"]


def test_a_run_that_begins_anew_takes_nothing_over(tmp_path: Path) -> None:
    store = ClientStore(tmp_path)
    store.save(ClientState(1), tensors())
    secret = store.secret(None, 0)
    assert store.load(before=1) == (ClientState(), {})
    assert rounds_in(tmp_path) == ["secret"]
    assert store.secret(None, 0) == secret


def test_a_client_that_sat_rounds_out_goes_on_from_its_last(tmp_path: Path) -> None:
    store = ClientStore(tmp_path)
    store.save(ClientState(3), tensors(3))
    assert store.load(before=90)[0].round == 3


@settings(max_examples=30)
@given(st.lists(st.integers(1, 2_000_000), min_size=1, max_size=6, unique=True))
def test_only_the_newest_states_are_kept(tmp_path_factory: pytest.TempPathFactory, rounds: list[int]) -> None:
    folder = tmp_path_factory.mktemp("client")
    store = ClientStore(folder)
    for round_ in sorted(rounds):
        store.save(ClientState(round_), tensors(round_))
    kept = sorted(rounds)[-KEPT_ROUNDS:]
    assert {int(name[6:-12]) for name in rounds_in(folder)} == set(kept)
    assert store.load(before=2_000_001)[0].round == kept[-1]


@pytest.mark.parametrize("again", [False, True])
def test_a_killed_write_leaves_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool) -> None:
    """Of the round before, or, where a round is written a second time, of the first time."""
    store = ClientStore(tmp_path)
    for round_ in (1, 2):
        store.save(ClientState(round_), tensors(round_))
    before = {name: (tmp_path / name).read_bytes() for name in rounds_in(tmp_path)}
    with monkeypatch.context() as patch:
        patch.setattr(files, "save_file", dies_half_way)
        with pytest.raises(Killed):
            store.save(ClientState(2 if again else 3), tensors(9))
    assert {name: (tmp_path / name).read_bytes() for name in rounds_in(tmp_path)} == before
    assert store.load(before=4)[0].round == 2


# The states of several runs.


def test_runs_on_one_disk_do_not_see_each_other(tmp_path: Path) -> None:
    first, second = ClientStore(tmp_path, "first"), ClientStore(tmp_path, "second")
    first.save(ClientState(5), tensors(5))
    assert second.load(before=1) == (ClientState(), {})
    second.save(ClientState(1), tensors(1))
    assert first.load(before=6)[0].round == 5
    assert first.secret(None, 0) == second.secret(None, 0)


def test_only_the_runs_that_trained_last_are_kept(tmp_path: Path) -> None:
    """Or whoever begins runs fills the disk."""
    for run in range(3 * KEPT_RUNS):
        ClientStore(tmp_path, "first").save(ClientState(run + 1), tensors())
        ClientStore(tmp_path, f"run-{run}").save(ClientState(1), tensors())
    newest = {f"run-{run}" for run in range(2 * KEPT_RUNS + 1, 3 * KEPT_RUNS)}
    assert set(rounds_in(tmp_path / "runs")) == {"first"} | newest


# The samples of an evaluation.


def test_samples_survive_and_replace_those_before(tmp_path: Path) -> None:
    store, labels = ClientStore(tmp_path), torch.tensor([1, -1])
    store.save_samples(torch.zeros(2, 3, 4, 4), labels)
    images = torch.randn(2, 4, 4, 3).permute(0, 3, 1, 2)
    assert not images.is_contiguous(), "which safetensors would not write"
    store.save_samples(images, labels)
    back = load_file(tmp_path / "samples.safetensors")
    assert torch.equal(back["images"], images)
    assert torch.equal(back["labels"], labels)


def test_a_killed_write_leaves_the_samples_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ClientStore(tmp_path)
    store.save_samples(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64))
    before = (tmp_path / "samples.safetensors").read_bytes()
    monkeypatch.setattr(files, "save_file", dies_half_way)
    with pytest.raises(Killed):
        store.save_samples(torch.ones(2, 1, 4, 4), torch.ones(2, dtype=torch.int64))
    assert (tmp_path / "samples.safetensors").read_bytes() == before
    assert rounds_in(tmp_path) == ["samples.safetensors"]
