"""Seeds of torch's random numbers."""

from __future__ import annotations

import hashlib

import torch


def seed_everything(*numbers: int) -> None:
    """Seed torch from several numbers, for example seed and step, so that random numbers depend on nothing drawn before."""
    digest = hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
