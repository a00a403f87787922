"""Multiply-accumulates and parameters: counted on a network, and foreseen from group widths."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pass_transfer.networks.groups import ChannelGroups
from pass_transfer.networks.modes import eval_mode


def count_macs(network: nn.Module, image_size: int) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image, as torch counts them (two FLOPs each)."""
    parameter = next(network.parameters())
    with torch.no_grad(), eval_mode(network), FlopCounterMode(display=False) as counter:
        network(
            torch.zeros(
                1, 3, image_size, image_size, device=parameter.device, dtype=parameter.dtype
            )
        )
    return counter.get_total_flops() // 2


def count_parameters(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in network.parameters())


@dataclass(frozen=True)
class _LayerCost:
    """A layer has positions * area * outputs * inputs MACs and area * outputs * inputs weights, both as the masks leave them; and so many parameters an output."""

    name: str
    positions: int
    area: int
    each_output: int
    outputs: int
    inputs: int
    out_group: str | None
    in_group: str | None


@dataclass(frozen=True)
class LayerSize:
    """A layer's size: positions of its map, channels in and out, MACs for one image, parameters."""

    name: str
    positions: int
    inputs: int
    outputs: int
    macs: int
    parameters: int


class CostTable:
    """The MACs and parameters of a backbone with any number of units kept in each group, without building it.

    Agrees exactly with count_macs and count_parameters of the network after removal.
    """

    def __init__(self, backbone: nn.Module, groups: ChannelGroups, image_size: int):
        self.groups = groups
        self.layers = _layer_costs(backbone, groups, image_size)
        self.others = count_parameters(backbone) - self._parameters_of_layers(self._whole)

    @property
    def _whole(self) -> dict[str, int]:
        return {name: group.width for name, group in self.groups.items()}

    @property
    def dense(self) -> int:
        """MACs of the whole network."""
        return self.macs(self._whole)

    @property
    def dense_parameters(self) -> int:
        """Parameters of the whole network."""
        return self.parameters(self._whole)

    def with_classes(self, classes: int) -> CostTable:
        """The same network with a classifier for another number of classes."""
        other = copy.copy(self)
        other.layers = [*self.layers[:-1], dataclasses.replace(self.layers[-1], outputs=classes)]
        return other

    def macs(self, kept: Mapping[str, int]) -> int:
        """MACs for one image when group g keeps kept[g] units."""
        return sum(
            layer.positions * layer.area * outputs * inputs
            for layer, outputs, inputs in self._sizes(kept)
        )

    def parameters(self, kept: Mapping[str, int]) -> int:
        """Parameters when group g keeps kept[g] units."""
        return self.others + self._parameters_of_layers(kept)

    def by_layer(self, kept: Mapping[str, int]) -> list[LayerSize]:
        """Every convolution and linear layer as masks leave it, in the order they run."""
        return [
            LayerSize(
                layer.name,
                layer.positions,
                inputs,
                outputs,
                layer.positions * layer.area * outputs * inputs,
                layer.area * outputs * inputs + layer.each_output * outputs,
            )
            for layer, outputs, inputs in self._sizes(kept)
            if layer.area
        ]

    def _parameters_of_layers(self, kept: Mapping[str, int]) -> int:
        return sum(
            layer.area * outputs * inputs + layer.each_output * outputs
            for layer, outputs, inputs in self._sizes(kept)
        )

    def _sizes(self, kept: Mapping[str, int]) -> Iterator[tuple[_LayerCost, int, int]]:
        for layer in self.layers:
            yield (
                layer,
                layer.outputs if layer.out_group is None else layer.outputs * kept[layer.out_group],
                layer.inputs if layer.in_group is None else layer.inputs * kept[layer.in_group],
            )


def _layer_costs(backbone: nn.Module, groups: ChannelGroups, image_size: int) -> list[_LayerCost]:
    positions: dict[str, int] = {}
    handles = [
        m.register_forward_hook(
            lambda _, __, out, n=n: positions.__setitem__(n, out[0].numel() // out.shape[1])
        )
        for n, m in backbone.named_modules()
        if isinstance(m, (nn.Conv2d, nn.Linear, nn.BatchNorm2d))
    ]
    parameter = next(backbone.parameters())
    with torch.no_grad(), eval_mode(backbone):
        backbone(
            torch.zeros(
                1, 3, image_size, image_size, device=parameter.device, dtype=parameter.dtype
            )
        )
    for handle in handles:
        handle.remove()
    writers = {n: g for g in groups.values() for n in g.writes}
    readers = {n: g for g in groups.values() for n in g.reads}
    return [
        _layer_cost(backbone.get_submodule(n), p, writers.get(n), readers.get(n), n)
        for n, p in positions.items()
    ]


def _layer_cost(layer: nn.Module, positions: int, out_group, in_group, name: str) -> _LayerCost:
    each_output = 0 if getattr(layer, "bias", None) is None else 1
    if isinstance(layer, nn.BatchNorm2d):
        area, outputs, inputs, each_output, in_group = (
            0,
            layer.num_features,
            0,
            2 * layer.affine,
            None,
        )
    elif isinstance(layer, nn.Linear):
        area, outputs, inputs = 1, layer.out_features, layer.in_features
    else:
        area = layer.kernel_size[0] * layer.kernel_size[1]
        outputs, inputs = layer.out_channels, layer.in_channels // layer.groups
        if layer.groups > 1:
            in_group = None  # a unit of a grouped convolution takes its own inputs along
    outputs = outputs if out_group is None else len(out_group.writes[name]) // out_group.width
    inputs = inputs if in_group is None else len(in_group.reads[name]) // in_group.width
    return _LayerCost(
        name,
        positions,
        area,
        each_output,
        outputs,
        inputs,
        out_group and out_group.name,
        in_group and in_group.name,
    )
