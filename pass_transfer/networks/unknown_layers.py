"""Layer kinds that Torch-Pruning does not know, in the words of its dependency graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch_pruning.pruner.function import BasePruningFunc

from pass_transfer.networks.layers import LayerKind, named_layers


class _Holder(BasePruningFunc):
    """A layer that passes its channels on: what leaves its outputs leaves its inputs.

    The graph asks for sizes alone; channels are cut by networks/removal.py.
    """

    TARGET_MODULES = nn.Module

    def __init__(self, kind: LayerKind[Any]):
        super().__init__()
        self.kind = kind

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: nn.Module) -> int:
        return self.kind.output_channels(layer)

    def get_in_channels(self, layer: nn.Module) -> int:
        return self.kind.input_channels(layer)


class _Maker(_Holder):
    """A layer with channels of its own: inputs and outputs leave independently."""

    def prune_in_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        return layer


def pruners_of(network: nn.Module) -> dict[type[nn.Module], BasePruningFunc]:
    """By class, how Torch-Pruning follows channels through layers that it does not know."""
    unknown = named_layers(network, lambda kind: not kind.known_to_torch_pruning)
    return {
        type(layer): (_Maker if kind.makes_channels else _Holder)(kind)
        for _, layer, kind in unknown
    }
