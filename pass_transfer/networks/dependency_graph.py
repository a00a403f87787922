"""Torch-Pruning's dependency graph of a network, for the methods that are Torch-Pruning's own.

Layer kinds that it does not know are put into its words.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch_pruning
from torch import nn
from torch_pruning.pruner.function import BasePruningFunc

from pass_transfer.networks.classifier import classifier_name
from pass_transfer.networks.image import blank_image
from pass_transfer.networks.layers import LayerKind, named_layers
from pass_transfer.networks.modes import eval_mode


def dependency_graph(backbone: nn.Module, image_size: int) -> torch_pruning.DependencyGraph:
    """Torch-Pruning's graph of a backbone (in eval mode, on its own device)."""
    required = [p.requires_grad for p in backbone.parameters()]
    backbone.requires_grad_(True)  # the graph is traced through autograd
    try:
        with warnings.catch_warnings(), torch.enable_grad(), eval_mode(backbone):
            warnings.simplefilter("ignore")
            return torch_pruning.DependencyGraph().build_dependency(
                backbone,
                example_inputs=blank_image(backbone, image_size),
                customized_pruners=_pruners_of(backbone),
            )
    finally:
        for parameter, value in zip(backbone.parameters(), required):
            parameter.requires_grad_(value)


def dependency_groups(backbone: nn.Module, image_size: int) -> Iterator[torch_pruning.Group]:
    """Torch-Pruning's own groups of everything but the classifier."""
    head = backbone.get_submodule(classifier_name(backbone))
    graph = dependency_graph(backbone, image_size)
    makers = {type(layer) for _, layer, _ in named_layers(backbone, lambda k: k.makes_channels)}
    yield from graph.get_all_groups(ignored_layers=[head], root_module_types=list(makers))


def reads_channels(item: Any) -> bool:
    """Whether a layer in Torch-Pruning's group takes the group's channels in."""
    return item.dep.handler.__name__ == "prune_in_channels"


def _pruners_of(network: nn.Module) -> dict[type[nn.Module], BasePruningFunc]:
    """By class, how Torch-Pruning follows channels through layers that it does not know."""
    unknown = named_layers(network, lambda kind: not kind.known_to_torch_pruning)
    return {
        type(layer): (_Maker if kind.makes_channels else _Holder)(kind)
        for _, layer, kind in unknown
    }


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
