"""Multiply-accumulates and parameters: counted on a network, and foreseen from group widths."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pass_transfer.networks.classifier import classifier_name
from pass_transfer.networks.groups import ChannelGroups
from pass_transfer.networks.image import blank_image
from pass_transfer.networks.labels import NONE
from pass_transfer.networks.layers import LayerCost, kind_of, layer_kind
from pass_transfer.networks.modes import eval_mode, frozen


def count_macs(network: nn.Module, image_size: int) -> int:
    """Multiply-accumulates for one image, as torch counts them: two FLOPs each.

    Convolutions, linear layers and attention's products count; what is done channel by channel
    does not.
    """
    counter = FlopCounterMode(display=False)  # which asks for gradients of a parameter's views
    with torch.no_grad(), eval_mode(network), frozen(network), counter:
        network(blank_image(network, image_size))
    return counter.get_total_flops() // 2


def count_parameters(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in network.parameters())


FREE = LayerCost(0, 0, 0)


@dataclass(frozen=True)
class _Channels:
    """Channels at one end of a layer: those of no group, and for each unit of a group."""

    always: int
    of_units: Mapping[str, int]

    def count(self, kept: Mapping[str, int]) -> int:
        """How many there are when group g keeps kept[g] units."""
        return self.always + sum(each * kept[name] for name, each in self.of_units.items())


@dataclass(frozen=True)
class _Layer:
    """A layer in the network."""

    name: str
    positions: int
    cost: LayerCost
    outputs: _Channels
    inputs: _Channels

    def size(self, kept: Mapping[str, int]) -> LayerSize:
        """The layer when group g keeps kept[g] units."""
        outputs, inputs = self.outputs.count(kept), self.inputs.count(kept)
        return LayerSize(
            self.name,
            self.positions,
            inputs,
            outputs,
            self.cost.macs(self.positions, outputs, inputs),
            self.cost.parameters(outputs, inputs),
        )


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
    """MACs and parameters of a backbone with any number of units kept, without building it.

    Agrees exactly with count_macs and count_parameters of the network after removal.
    """

    def __init__(self, backbone: nn.Module, groups: ChannelGroups, image_size: int):
        self.groups = groups
        self.layers = _layers(backbone, groups, image_size)
        self.products = _products(groups)
        self.tensors = _tensors(backbone, groups)
        self.classifier = classifier_name(backbone)
        self.other_macs, self.other_parameters = 0, 0
        self.other_macs = count_macs(backbone, image_size) - self.dense
        self.other_parameters = count_parameters(backbone) - self.dense_parameters

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
        other.layers = [
            dataclasses.replace(layer, outputs=_Channels(classes, {}))
            if layer.name == self.classifier
            else layer
            for layer in self.layers
        ]
        return other

    def macs(self, kept: Mapping[str, int]) -> int:
        """MACs for one image when group g keeps kept[g] units."""
        of_layers = sum(layer.size(kept).macs for layer in self.layers)
        return self.other_macs + of_layers + _of_units(self.products, kept)

    def parameters(self, kept: Mapping[str, int]) -> int:
        """Parameters when group g keeps kept[g] units."""
        of_layers = sum(layer.size(kept).parameters for layer in self.layers)
        return self.other_parameters + of_layers + _of_units(self.tensors, kept)

    def by_layer(self, kept: Mapping[str, int]) -> list[LayerSize]:
        """Every convolution and linear layer as masks leave it, in the order they run."""
        return [layer.size(kept) for layer in self.layers if layer.cost.joining]


def _layers(backbone: nn.Module, groups: ChannelGroups, image_size: int) -> list[_Layer]:
    """The layers that cost something, in the order they run."""
    positions: dict[str, int] = {}

    def note(name: str, places: Callable[[torch.Tensor], int], made: torch.Tensor) -> None:
        positions[name] = positions.get(name, 0) + places(made)  # a layer may run several times

    handles = []
    for name, module in backbone.named_modules():
        kind = layer_kind(module)
        if kind is not None and kind.cost(module) is not None:
            handles.append(
                module.register_forward_hook(
                    lambda _, __, made, name=name, kind=kind: note(name, kind.positions, made)
                )
            )
    try:
        with torch.no_grad(), eval_mode(backbone):
            backbone(blank_image(backbone, image_size))
    finally:
        for handle in handles:
            handle.remove()
    return [
        _layer(name, backbone.get_submodule(name), places, groups)
        for name, places in positions.items()
    ]


def _layer(name: str, module: nn.Module, positions: int, groups: ChannelGroups) -> _Layer:
    kind = kind_of(module)
    cost = kind.cost(module) or FREE
    outputs = _channels(kind.output_channels(module), name, groups, "writes")
    inputs = _Channels(cost.inputs, {})
    if kind.mixes_channels:  # else a block of channels takes its own inputs along
        inputs = _channels(cost.inputs, name, groups, "reads")
    return _Layer(name, positions, cost, outputs, inputs)


def _channels(count: int, layer: str, groups: ChannelGroups, side: str) -> _Channels:
    """A layer's channels at one end, by the groups that write or read them."""
    of_units = {}
    for name, group in groups.items():
        units = getattr(group, side).get(layer)
        if units is not None:
            of_units[name] = int((units != NONE).sum()) // group.width
    grouped = sum(each * groups[name].width for name, each in of_units.items())
    return _Channels(count - grouped, of_units)


def _products(groups: ChannelGroups) -> dict[str, int]:
    """By group, MACs for each unit of products of activations."""
    return {name: sum(group.products.values()) for name, group in groups.items()}


def _tensors(backbone: nn.Module, groups: ChannelGroups) -> dict[str, int]:
    """By group, parameters for each unit of tensors that are in no layer."""
    sizes = {name: parameter.numel() for name, parameter in backbone.named_parameters()}
    return {
        name: sum(sizes.get(tensor, 0) for tensor in group.tensors) // group.width
        for name, group in groups.items()
    }


def _of_units(each: Mapping[str, int], kept: Mapping[str, int]) -> int:
    return sum(count * kept[name] for name, count in each.items())
