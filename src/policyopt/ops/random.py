"""Random numbers as a function of what they are for.

Nothing here has state: a stream is an integer key, and the n-th number of a stream is a hash of both. So a row's
samples do not depend on which other rows share its batch, on the engine or on a restart.
"""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float, Int
from torch import Tensor

from policyopt.distributions import widest


def derive(*names: object) -> int:
    """A 63-bit seed from any printable names (run seed, purpose, step ...)."""
    text = "/".join(map(str, names)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def generator(*names: object) -> torch.Generator:
    """A fresh CPU generator, a pure function of the names."""
    return torch.Generator().manual_seed(derive(*names))


def new_keys(count: int, rng: torch.Generator) -> Int[Tensor, " B"]:
    """One stream per row."""
    return torch.randint(2**62, (count,), generator=rng)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN, _FIRST, _SECOND = (_signed(v) for v in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Logical (not arithmetic) right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser; int64 products wrap around, which is what the hash needs."""
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def uniforms(keys: Int[Tensor, " B"], position: int | Int[Tensor, " B"], width: int) -> Float[Tensor, "B width"]:
    """`width` numbers in [0, 1), as exact as the device has them, for every stream at a position (step) of it."""
    offset = torch.arange(1, width + 1, device=keys.device)
    start = (
        _mix(keys + _GOLDEN)
        + (position if isinstance(position, Tensor) else torch.tensor(position)).to(keys.device) * _GOLDEN
    )
    bits = _mix(_mix(start)[:, None] + offset * _GOLDEN)
    # As many bits as the type can hold, so that no number rounds up to 1.
    wide = widest(keys.device)
    kept = 53 if wide == torch.float64 else 24
    return _shifted(bits, 64 - kept).to(wide) * 2.0**-kept
