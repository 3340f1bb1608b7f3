"""Addressed randomness: a draw is named by (seed, purpose, place), never taken from an ambient stream.

Two runs that address the same draw get the same numbers, whatever happened before and on however many
workers. Where a batch is shared over workers, each worker makes the draw of the whole global batch and
keeps its own slice.
"""

import hashlib

import torch


def generator(seed: int, purpose: str, *place: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose state is a function of ``(seed, purpose, place)`` alone.

    The 63-bit state is a blake2b hash of the address, so that neighbouring addresses are unrelated.
    """
    address = ":".join([str(int(seed)), purpose, *(str(int(p)) for p in place)])
    key = int.from_bytes(hashlib.blake2b(address.encode(), digest_size=8).digest(), "little") >> 1
    made = torch.Generator(device=device)
    made.manual_seed(key)
    return made
