"""In which order a group's channels are computed with, and how many of them.

Kept channels come first, then the dropped ones whose mask wants a gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# Kept channels are rounded up to a multiple of it, at least once, which the arithmetic
# underneath does anyway.
STEP = 8


@dataclass(frozen=True)
class ChannelOrder:
    """A group's channels for one step.

    Fields:
        order: (count,) int64; the kept channels, then the dropped ones whose mask wants a
            gradient.
        mask: (count,) in that order, differentiable.
        kept: how many are computed with.
    """

    order: Tensor
    mask: Tensor
    kept: int

    @property
    def count(self) -> int:
        """How many channels are made at all."""
        return len(self.order)


Counts = dict[str, tuple[int, int]]  # of a group's channels, how many are kept and made


def counts_and_orders(
    masks: Mapping[str, Tensor],
    gradient: str,
    margins: Mapping[str, Tensor] | None,
    capacity: Mapping[str, int] | None,
    orders: Mapping[str, Tensor] | None,
) -> tuple[Counts, Mapping[str, Tensor]]:
    """How many channels of each group are kept and made, and their order.

    Without a capacity the counts are fetched from the device, once for all groups.
    """
    fixed = None if capacity is None else _fixed_counts(masks, gradient, capacity)
    if fixed is not None and orders is not None:
        return fixed, orders
    ranks = _ranks(masks, gradient, margins)
    counts = _fetched_counts(ranks) if fixed is None else fixed
    if not orders:
        orders = {name: torch.sort(rank, stable=True).indices for name, rank in ranks.items()}
    return counts, orders


def ordered(
    masks: Mapping[str, Tensor], counts: Counts, orders: Mapping[str, Tensor]
) -> dict[str, ChannelOrder]:
    """Kept channels first, then the dropped ones whose mask wants a gradient.

    A group that keeps none is computed with a channel whose mask is zero.
    """
    found = {}
    for name, mask in masks.items():
        kept, count = counts[name]
        order = orders[name][:count]
        numbers = mask if mask.is_floating_point() else mask.float()
        found[name] = ChannelOrder(order, numbers.gather(0, order), kept)
    return found


def _ranks(
    masks: Mapping[str, Tensor], gradient: str, margins: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Of every channel: 0 kept, 1 dropped and its mask wants a gradient, 2 not to be made."""
    ranks = {}
    for name, mask in masks.items():
        wants = mask.requires_grad and torch.is_grad_enabled() and gradient != "kept"
        if not wants:
            made = torch.zeros_like(mask)
        elif gradient == "margin" and margins is not None:
            made = margins[name]
        else:
            made = torch.ones_like(mask)
        ranks[name] = torch.where(mask.detach() != 0, 0, torch.where(made != 0, 1, 2))
    return ranks


def _fixed_counts(
    masks: Mapping[str, Tensor], gradient: str, capacity: Mapping[str, int]
) -> Counts:
    """As many kept channels as there is room for, and all others if their masks learn."""
    counts = {}
    for name, mask in masks.items():
        kept = capacity[name]
        counts[name] = kept, kept if gradient == "kept" else len(mask)
    return counts


def _fetched_counts(ranks: Mapping[str, Tensor]) -> Counts:
    """The counts of each group's ranks, fetched from the device at once."""
    pairs = [
        torch.stack([(rank == 0).sum(), (rank <= 1).sum().clamp(min=1)]) for rank in ranks.values()
    ]
    counts = {}
    for name, (kept, count) in zip(ranks, torch.stack(pairs).tolist()):
        counts[name] = min(count, _rounded(kept)), count
    return counts


def _rounded(kept: int) -> int:
    return max(1, -(-kept // STEP)) * STEP


def capacity_for(
    kept: Mapping[str, int], widths: Mapping[str, int], slack: int = 0
) -> dict[str, int]:
    """How many kept channels each group gets room for.

    They are those it has now and `slack` more, rounded up to what arithmetic comes in.
    """
    return {name: min(widths[name], _rounded(count + slack)) for name, count in kept.items()}
