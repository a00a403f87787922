"""How wide a hypernetwork is made for a network."""

from __future__ import annotations

from functools import partial

from torch import nn

from pass_transfer.networks import ChannelGroups, count_parameters
from pass_transfer.networks.outline import outline
from pass_transfer.scoring.hypernet.config import HypernetConfig
from pass_transfer.scoring.hypernet.model import Hypernet

WIDTHS = (128, 64, 32, 16, 8, 4)
SHARE = 0.06  # of the network's parameters: the most that arXiv 2407.17412 has


def fitting_shape(backbone: nn.Module, groups: ChannelGroups) -> HypernetConfig:
    """The widest of WIDTHS whose hypernetwork has at most SHARE of a backbone's parameters."""
    most = SHARE * count_parameters(backbone)
    for hidden in WIDTHS:
        shape = HypernetConfig(hidden=hidden)
        if count_parameters(outline(partial(Hypernet, shape, None, groups))) <= most:
            return shape
    return HypernetConfig(hidden=WIDTHS[-1])
