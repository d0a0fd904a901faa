"""Random streams that belong to names: a seed is a function of (run seed, what it is for, step)."""

import hashlib

import torch


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from integers and names; equal parts give equal seeds on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator at the start of the stream that `parts` name."""
    return torch.Generator().manual_seed(seed_of(*parts))
