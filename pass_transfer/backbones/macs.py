"""Multiply-accumulates and parameters: counted on a network, and foreseen from group widths."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Mapping

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pass_transfer.backbones.groups import ChannelGroups
from pass_transfer.backbones.modes import eval_mode


def count_macs(network: nn.Module, image_size: int) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image, as torch counts them (two FLOPs each)."""
    parameter = next(network.parameters())
    with torch.no_grad(), eval_mode(network), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, image_size, image_size, device=parameter.device, dtype=parameter.dtype))
    return counter.get_total_flops() // 2


def count_parameters(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in network.parameters())


@dataclass(frozen=True)
class _LayerCost:
    """MACs of a layer are each_pair * outputs * inputs, both as the masks leave them."""

    each_pair: int
    outputs: int
    inputs: int
    out_group: str | None
    in_group: str | None


class MacsTable:
    """The MACs of a backbone with any number of units kept in each group, without building it.

    Agrees exactly with count_macs of the network after removal.
    """

    def __init__(self, backbone: nn.Module, groups: ChannelGroups, image_size: int):
        self.groups = groups
        self.layers = _layer_costs(backbone, groups, image_size)

    @property
    def dense(self) -> int:
        """MACs of the whole network."""
        return self.macs({name: group.width for name, group in self.groups.items()})

    def with_classes(self, classes: int) -> MacsTable:
        """The same network with a classifier for another number of classes."""
        other = copy.copy(self)
        other.layers = [*self.layers[:-1], dataclasses.replace(self.layers[-1], outputs=classes)]
        return other

    def macs(self, kept: Mapping[str, int]) -> int:
        """MACs for one image when group g keeps kept[g] units."""
        total = 0
        for layer in self.layers:
            outputs = layer.outputs if layer.out_group is None else layer.outputs * kept[layer.out_group]
            inputs = layer.inputs if layer.in_group is None else layer.inputs * kept[layer.in_group]
            total += layer.each_pair * outputs * inputs
        return total


def _layer_costs(backbone: nn.Module, groups: ChannelGroups, image_size: int) -> list[_LayerCost]:
    positions: dict[str, int] = {}
    handles = [m.register_forward_hook(lambda _, __, out, n=n: positions.__setitem__(n, out[0].numel() // out.shape[1]))
               for n, m in backbone.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    parameter = next(backbone.parameters())
    with torch.no_grad(), eval_mode(backbone):
        backbone(torch.zeros(1, 3, image_size, image_size, device=parameter.device, dtype=parameter.dtype))
    for handle in handles:
        handle.remove()
    writers = {n: g for g in groups.values() for n in g.writes}
    readers = {n: g for g in groups.values() for n in g.reads}
    return [_layer_cost(backbone.get_submodule(n), p, writers.get(n), readers.get(n), n) for n, p in positions.items()]


def _layer_cost(layer: nn.Module, positions: int, out_group, in_group, name: str) -> _LayerCost:
    if isinstance(layer, nn.Linear):
        each, outputs, inputs = positions, layer.out_features, layer.in_features
    else:
        each = positions * layer.kernel_size[0] * layer.kernel_size[1]
        outputs, inputs = layer.out_channels, layer.in_channels // layer.groups
        if layer.groups > 1:
            in_group = None  # a unit of a grouped convolution takes its own inputs along
    outputs = outputs if out_group is None else len(out_group.writes[name]) // out_group.width
    inputs = inputs if in_group is None else len(in_group.reads[name]) // in_group.width
    return _LayerCost(each, outputs, inputs, out_group and out_group.name, in_group and in_group.name)
