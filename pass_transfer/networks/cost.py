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
from pass_transfer.networks.groups import ChannelGroup, ChannelGroups, blank_image
from pass_transfer.networks.layers import LayerCost, kind_of, layer_kind
from pass_transfer.networks.modes import eval_mode


def count_macs(network: nn.Module, image_size: int) -> int:
    """Multiply-accumulates for one image, as torch counts them: two FLOPs each.

    Convolutions and linear layers count; what is done channel by channel does not.
    """
    with torch.no_grad(), eval_mode(network), FlopCounterMode(display=False) as counter:
        network(blank_image(network, image_size))
    return counter.get_total_flops() // 2


def count_parameters(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in network.parameters())


FREE = LayerCost(0, 0, 0)


@dataclass(frozen=True)
class _Layer:
    """A layer in the network; outputs and inputs are for each unit of their group, if any."""

    name: str
    positions: int
    cost: LayerCost
    outputs: int
    inputs: int
    out_group: str | None
    in_group: str | None

    def size(self, kept: Mapping[str, int]) -> LayerSize:
        """The layer when group g keeps kept[g] units."""
        outputs = self.outputs if self.out_group is None else self.outputs * kept[self.out_group]
        inputs = self.inputs if self.in_group is None else self.inputs * kept[self.in_group]
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
        self.classifier = classifier_name(backbone)
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
        other.layers = [
            dataclasses.replace(layer, outputs=classes) if layer.name == self.classifier else layer
            for layer in self.layers
        ]
        return other

    def macs(self, kept: Mapping[str, int]) -> int:
        """MACs for one image when group g keeps kept[g] units."""
        return sum(layer.size(kept).macs for layer in self.layers)

    def parameters(self, kept: Mapping[str, int]) -> int:
        """Parameters when group g keeps kept[g] units."""
        return self.others + self._parameters_of_layers(kept)

    def by_layer(self, kept: Mapping[str, int]) -> list[LayerSize]:
        """Every convolution and linear layer as masks leave it, in the order they run."""
        return [layer.size(kept) for layer in self.layers if layer.cost.joining]

    def _parameters_of_layers(self, kept: Mapping[str, int]) -> int:
        return sum(layer.size(kept).parameters for layer in self.layers)


def _layers(backbone: nn.Module, groups: ChannelGroups, image_size: int) -> list[_Layer]:
    """The layers that cost something, in the order they run."""
    positions: dict[str, int] = {}

    def note(name: str, places: Callable[[torch.Tensor], int], made: torch.Tensor) -> None:
        positions[name] = places(made)

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
    writers = {n: g for g in groups.values() for n in g.writes}
    readers = {n: g for g in groups.values() for n in g.reads}
    return [
        _layer(name, backbone.get_submodule(name), places, writers.get(name), readers.get(name))
        for name, places in positions.items()
    ]


def _layer(
    name: str,
    module: nn.Module,
    positions: int,
    writer: ChannelGroup | None,
    reader: ChannelGroup | None,
) -> _Layer:
    kind = kind_of(module)
    cost = kind.cost(module) or FREE
    if not kind.mixes_channels:
        reader = None  # a block of channels takes its own inputs along
    outputs, inputs = kind.output_channels(module), cost.inputs
    if writer is not None:
        outputs = len(writer.writes[name]) // writer.width
    if reader is not None:
        inputs = len(reader.reads[name]) // reader.width
    out_group = None if writer is None else writer.name
    in_group = None if reader is None else reader.name
    return _Layer(name, positions, cost, outputs, inputs, out_group, in_group)
