"""Named random streams: a draw depends on the stream's name, never on earlier draws elsewhere."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

#: Where a state of torch's generator on the CPU has the words of the Mersenne Twister, in 64 bits each; their number.
_WORDS, _NUM_WORDS = 24, 624


def named_generator(*name: int | str | bytes, device: torch.device | str = "cpu") -> torch.Generator:
    """Make a generator whose state is a hash of its name, e.g. (seed, "client", 3, "round", 7).

    Two streams of different names are independent; the same name gives the same numbers in any process.
    A name that begins with bytes is a secret's: on a CPU it fills the whole state, of which a seed would choose among
    2^32 and could be tried out. A GPU's generator takes 63 bits of it.
    """
    generator = torch.Generator(device=device).manual_seed(derive_seed(*name))
    if not name or not isinstance(name[0], bytes) or generator.device.type != "cpu":
        return generator
    words = keyed_generator(name[0], repr(name[1:]).encode()).integers(0, 1 << 32, _NUM_WORDS, np.uint64)
    state = generator.get_state()
    state[_WORDS : _WORDS + words.nbytes] = torch.from_numpy(words.view(np.uint8))
    return generator.set_state(state)


def keyed_generator(secret: bytes, content: bytes, block: int = 0) -> np.random.Generator:
    """A Philox counter-based generator (Salmon et al., SC 2011) that cannot be repeated without the secret.

    It is keyed by a keyed hash (BLAKE2b) of the content: the same secret and content give the same numbers anywhere.
    Each `block` >= 0 of its counters, 2^64 of them, is a stream of its own.
    A torch generator would not do, as the CPU's takes 32 bits of its seed.
    """
    key = np.frombuffer(hashlib.blake2b(content, digest_size=16, key=secret).digest(), dtype="<u8")
    return np.random.Generator(np.random.Philox(key=key, counter=block << 64))


def derive_seed(*name: int | str | bytes) -> int:
    """A 63-bit seed from a name, for libraries that take an integer."""
    digest = hashlib.sha256(repr(name).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
