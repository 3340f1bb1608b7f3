"""Addressed randomness: a draw is named by (seed, purpose, place), never taken from an ambient stream.

Two runs that address the same draw get the same numbers, whatever happened before and on however many
workers. Where a batch is shared over workers, a draw is of a cell at its position in the global batch
(counter_draws.py), so that each worker makes those of its own cells alone.
"""

import hashlib

import torch


def generator(seed: int, purpose: str, *place: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose state is a function of ``(seed, purpose, place)`` alone.

    The 63-bit state is a hash of the address, so that neighbouring addresses are unrelated.
    """
    made = torch.Generator(device=device)
    made.manual_seed(hashed(seed, purpose, *place) >> 1)
    return made


def hashed(seed: int, purpose: str, *place: int) -> int:
    """The address as 64 bits: blake2b."""
    address = ":".join([str(int(seed)), purpose, *(str(int(p)) for p in place)])
    return int.from_bytes(hashlib.blake2b(address.encode(), digest_size=8).digest(), "little")
