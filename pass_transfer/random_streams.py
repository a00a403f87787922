"""Random numbers by name: who draws what, and that no two draw the same.

    order = torch.randperm(images, generator=stream(seed, "order", epoch))

A stream is decided by its seed, its name and its numbers alone, so that a run which is resumed
draws what it would have drawn anyway.
"""

from __future__ import annotations

import hashlib
import json

import torch


def stream(seed: int, name: str, *numbers: int) -> torch.Generator:
    """A CPU generator that no other seed, name or numbers give.

    Args:
        seed: of the run.
        name: what is drawn, such as "augmentation".
        numbers: which of several, such as an epoch and a step.
    """
    return torch.Generator().manual_seed(stream_seed(seed, name, *numbers))


def stream_seed(seed: int, name: str, *numbers: int) -> int:
    """What stream() is seeded with, below 2**63, for other libraries' generators."""
    digest = hashlib.sha256(json.dumps([seed, name, *numbers]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_layers(seed: int, device: torch.device) -> None:
    """Seed torch's own generators, from which layers on a device draw; other devices' stay."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.manual_seed(seed)
