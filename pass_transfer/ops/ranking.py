"""One order of all channels that serves every budget."""

from __future__ import annotations

import torch
from torch import Tensor

from pass_transfer.ops.reference import select


def ranking(scores: Tensor, offsets: Tensor, floors: Tensor) -> Tensor:
    """All channels in the order in which a growing k takes them in, (n,) int64.

    The floors come first. For every k, the first k are the ones of global_topk_mask, so
    a smaller budget's channels are a subset of a larger one's.
    """
    first = select(scores, offsets, int(floors.sum()), floors)
    order = torch.sort(scores, descending=True, stable=True).indices
    return torch.cat([order[first[order]], order[~first[order]]])
