"""Streams depend on their name, all of it, and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collafuse_flwr.core.rng import derive_seed, keyed_generator, named_generator

NAMES = st.lists(st.integers() | st.text(max_size=6), max_size=4).map(tuple)


def test_seeds_are_the_same_in_every_process_and_version() -> None:
    """Written down once: a change here changes every run that was ever recorded."""
    assert derive_seed() == 5911644737314724887
    assert derive_seed(0, "client", 3, "round", 7) == 3773057003922877929
    assert named_generator(0, "backbone").initial_seed() == derive_seed(0, "backbone")


@given(NAMES)
def test_a_seed_fits_every_library(name: tuple[int | str, ...]) -> None:
    assert 0 <= derive_seed(*name) < 2**63
    assert named_generator(*name).initial_seed() == derive_seed(*name)


@given(NAMES, NAMES)
def test_different_names_have_different_seeds(a: tuple[int | str, ...], b: tuple[int | str, ...]) -> None:
    assert (derive_seed(*a) == derive_seed(*b)) == (a == b)


@pytest.mark.parametrize(
    ("a", "b"),
    [((1,), ("1",)), (("ab",), ("a", "b")), ((1, 23), (12, 3)), (("a, 'b",), ("a", "b")), ((0, "a"), ("a", 0))],
)
def test_names_that_look_alike_have_streams_of_their_own(a: tuple[int | str, ...], b: tuple[int | str, ...]) -> None:
    assert derive_seed(*a) != derive_seed(*b)


def test_a_stream_does_not_depend_on_who_drew_before() -> None:
    alone = torch.rand(5, generator=named_generator(0, "client", 1))
    torch.rand(3, generator=named_generator(0, "client", 0))
    torch.rand(3)
    assert torch.equal(torch.rand(5, generator=named_generator(0, "client", 1)), alone)


def test_drawing_from_a_stream_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    torch.rand(3, generator=named_generator(0, "client", 1))
    assert torch.equal(torch.get_rng_state(), before)


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(0, 100))
def test_neighbouring_streams_are_uncorrelated(seed: int, client: int) -> None:
    """Of 4,096 pairs the correlation has a standard deviation of 1/64."""
    draws = torch.stack([torch.randn(4096, generator=named_generator(seed, "client", c)) for c in (client, client + 1)])
    assert abs(torch.corrcoef(draws)[0, 1].item()) < 6 / 64


def test_a_secret_fills_the_whole_state() -> None:
    """The words are numpy's: both are the Mersenne Twister, of which torch takes the low 24 bits for a float."""
    secret, name = bytes(range(16)), ("client", 3)
    words = keyed_generator(secret, repr(name).encode()).integers(0, 1 << 32, 624, np.uint64)
    twister = np.random.RandomState()
    twister.set_state(("MT19937", words.astype(np.uint32), 624, 0, 0.0))
    expected = (twister.randint(0, 1 << 32, 2000, np.uint64) % (1 << 24)) / 2**24
    assert torch.rand(2000, generator=named_generator(secret, *name)).tolist() == expected.tolist()


def test_streams_of_a_secret_differ_and_repeat() -> None:
    names: list[tuple[int | str | bytes, ...]] = [
        (bytes(16), "a"),
        (bytes(16), "b"),
        (bytes(16),),
        (b"1" * 16, "a"),
        (bytes(16).hex(), "a"),
    ]
    draws = [torch.randn(64, generator=named_generator(*name)) for name in names]
    assert all(
        torch.equal(torch.randn(64, generator=named_generator(*name)), x) for name, x in zip(names, draws, strict=True)
    )
    assert len({tuple(x.tolist()) for x in draws}) == len(names)
