"""What every other room has to know of a kind of layer: one base class and one registry.

A new kind is a subclass of LayerKind in a file of its own and one registration. No other
room asks for a layer's class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from pass_transfer.errors import BackboneError

Layer = TypeVar("Layer", bound=nn.Module)
Undo = Callable[[], None]


class Role(Enum):
    """What a fused step of masking/plan.py makes of a layer."""

    CONVOLUTION = "convolution"
    LINEAR = "linear"
    NORMALISATION = "normalisation"
    RELU = "relu"
    MAX_POOLING = "max pooling"
    CHANNELWISE = "channelwise"


@dataclass(frozen=True)
class LayerCost:
    """What a layer costs, as a function of its positions and of its kept channels.

    Fields:
        joining: weights that join one output with one input; 0 where none does.
        each_output: parameters that an output has by itself.
        inputs: inputs that each output of the whole layer is computed from.
    """

    joining: int
    each_output: int
    inputs: int

    def macs(self, positions: int, outputs: int, inputs: int) -> int:
        """Multiply-accumulates for one image; `positions` are the places of an output's map."""
        return positions * self.joining * outputs * inputs

    def parameters(self, outputs: int, inputs: int) -> int:
        """Number of parameters."""
        return self.joining * outputs * inputs + self.each_output * outputs


class LayerKind(Generic[Layer]):
    """One kind of layer; a subclass says what differs from a layer without tensors.

    Fields:
        types: module classes that are of this kind.
        channel_axis: the axis of inputs and outputs on which the channels lie.
        makes_channels: its outputs are channels of its own, not those that it is given.
        takes_channels: its weight has a slice for each input channel.
        mixes_channels: each output is computed from every input.
        holds_channels: it passes channels on, and its tensors have one entry for each.
        running_statistics: it normalises with stored statistics, which do not fit any more
            once channels are masked or removed.
        can_classify: it can be a network's last layer, with one output for each class.
        always_step: the hypernetwork steps over it even where it writes no channel group.
        counts_by_weights: where it takes channels apart, as into heads, the number of parts
            follows the size of its weights.
        known_to_torch_pruning: Torch-Pruning's dependency graph knows these classes itself.
        idle_in_evaluation: in eval mode it gives what it is given.
        role: what a fused step makes of it; None where there is no such step.
    """

    types: tuple[type[nn.Module], ...] = ()
    channel_axis = 1
    makes_channels = False
    takes_channels = False
    mixes_channels = False
    holds_channels = False
    running_statistics = False
    can_classify = False
    always_step = False
    counts_by_weights = False
    known_to_torch_pruning = True
    idle_in_evaluation = False
    role: Role | None = None

    def matches(self, module: nn.Module) -> bool:
        """Whether a module is of this kind."""
        return isinstance(module, self.types)

    @property
    def has_channels(self) -> bool:
        """Whether its tensors have an entry for each channel that it makes or passes on."""
        return self.makes_channels or self.holds_channels

    # Sizes

    def output_channels(self, module: Layer) -> int:
        """Number of output channels. Raises BackboneError where a layer does not say it."""
        raise BackboneError(f"{type(module).__name__} does not say how many channels it has")

    def input_channels(self, module: Layer) -> int:
        """Number of input channels. Raises BackboneError where a layer does not say it."""
        return self.output_channels(module)

    def block_count(self, module: Layer) -> int:
        """Of how many blocks of channels, which can only go as a whole, it consists.

        0 where channels go one by one.
        """
        return 0

    def update_sizes(self, module: Layer) -> None:
        """Set the fields that say how large a layer is, in place, from its tensors' shapes."""

    def resize(self, module: Layer, shapes: Mapping[str, torch.Size]) -> None:
        """Give a layer empty tensors of these shapes, by name, and the sizes that follow."""
        resize_tensors(module, shapes)
        self.update_sizes(module)

    # Cutting

    def keep_outputs(self, module: Layer, kept: torch.Tensor) -> None:
        """Cut a layer, in place, down to the outputs with these indices (K,)."""
        for name, tensor in module.state_dict(keep_vars=True).items():
            if tensor.ndim > 0:
                _set(module, name, tensor.detach().index_select(0, kept.to(tensor.device)))
        self.update_sizes(module)

    def keep_inputs(self, module: Layer, kept: torch.Tensor) -> None:
        """Cut a layer, in place, down to the inputs with these indices (K,).

        A layer that does not mix channels loses its inputs with its outputs: it is left alone.
        """
        if self.mixes_channels:
            weight = _tensor(module, "weight").detach()
            _set(module, "weight", weight.index_select(1, kept.to(weight.device)))
            self.update_sizes(module)

    # Cost

    def cost(self, module: Layer) -> LayerCost | None:
        """What it costs; None for a layer without parameters."""
        return None

    # Values and weights

    def channels_first(self, value: torch.Tensor) -> torch.Tensor:
        """An input or output with its channels on axis 1: (B, C, ...)."""
        axis = self.channel_axis % value.ndim
        return value if axis == 1 else value.movedim(axis, 1)

    def positions(self, output: torch.Tensor) -> int:
        """Places at which channels are made, given the output for one image.

        Inside of windows the first axis is that of the windows.
        """
        return output.numel() // output.shape[self.channel_axis]

    def rows(
        self, module: Layer, given: torch.Tensor, places: int, draw: torch.Generator
    ) -> torch.Tensor:
        """Inputs (N, D) that the flattened weight (O, D) meets, for least squares.

        Args:
            given: a batch of inputs (B, ...).
            places: so many of each map's places are drawn, by `draw`, on the CPU.
        """
        raise BackboneError(f"{type(module).__name__} has no weight that mixes channels")

    def weight_by_input(self, module: Layer) -> torch.Tensor:
        """The weight (O, I, P), detached: P weights join one output with one input."""
        raise BackboneError(f"{type(module).__name__} has no weight that joins channels")

    def averaged_weight(self, module: Layer) -> torch.Tensor:
        """The weight (O, I) averaged over the kernel, float64 on the CPU."""
        return self.weight_by_input(module).cpu().double().mean(dim=2)

    # Classifiers

    def features(self, given: torch.Tensor) -> torch.Tensor:
        """What a classifier sees of each image, (B, D): averages over the places of a map."""
        return given if given.ndim == 2 else self.channels_first(given).flatten(2).mean(2)

    def as_classifier(self, linear: nn.Module) -> nn.Module:
        """A linear layer as a classifier of this kind."""
        return linear

    # Stored statistics

    def restart_statistics(self, module: Layer) -> Undo:
        """Forget stored statistics and average new ones over the batches to come.

        Returns:
            What puts the layer's own way of averaging back; the new statistics stay.
        """
        return lambda: None

    def use_batch_statistics(self, module: Layer) -> Undo:
        """Normalise with each batch's own statistics and store none.

        Returns:
            What puts the stored ones back.
        """
        return lambda: None

    # Fused steps

    def why_not_fused(self, module: Layer) -> str:
        """Why a layer with a role cannot be part of a fused step; empty where it can."""
        return ""

    def pooling(self, module: Layer) -> tuple[int, ...]:
        """Kernel, stride and padding of a maximum pooling that a fused step takes in, or ()."""
        return ()


_KINDS: list[LayerKind[Any]] = []


def register_layer_kind(kind: LayerKind[Any]) -> LayerKind[Any]:
    """Add a kind. Of several that match a module, the one that was registered last is asked."""
    _KINDS.insert(0, kind)
    return kind


def unregister_layer_kind(kind: LayerKind[Any]) -> None:
    """Take a kind out again."""
    _KINDS.remove(kind)


def layer_kind(module: nn.Module) -> LayerKind[Any] | None:
    """The kind of a module; None for a container and for what nobody registered."""
    for kind in _KINDS:
        if kind.matches(module):
            return kind
    return None


def kind_of(module: nn.Module) -> LayerKind[Any]:
    """The kind of a layer. Raises BackboneError where nobody registered one."""
    kind = layer_kind(module)
    if kind is None:
        raise BackboneError(f"there is no layer kind for {type(module).__name__}")
    return kind


def named_layers(
    network: nn.Module, wanted: Callable[[LayerKind[Any]], bool]
) -> Iterator[tuple[str, nn.Module, LayerKind[Any]]]:
    """(name, module, kind) of a network's layers whose kind is wanted, as they are defined."""
    for name, module in network.named_modules():
        kind = layer_kind(module)
        if kind is not None and wanted(kind):
            yield name, module, kind


def computes_as(module: nn.Module, names: Iterable[str]) -> bool:
    """Whether what a module computes is defined by a class of one of these names."""
    own = next(cls for cls in type(module).__mro__ if "forward" in vars(cls))
    return own.__name__ in names


def resize_tensors(module: nn.Module, shapes: Mapping[str, torch.Size]) -> None:
    """Give a module's own tensors these shapes, by name; they become empty."""
    for name, shape in shapes.items():
        _set(module, name, torch.empty(shape, dtype=_tensor(module, name).dtype))


def keep_places(network: nn.Module, name: str, axis: int, kept: torch.Tensor) -> None:
    """Cut one of a network's tensors, in place, down to some places (K,) of an axis."""
    owner, _, leaf = name.rpartition(".")
    module = network.get_submodule(owner)
    tensor = _tensor(module, leaf).detach()
    _set(module, leaf, tensor.index_select(axis, kept.to(tensor.device)))


def _tensor(module: nn.Module, name: str) -> torch.Tensor:
    tensor = getattr(module, name)
    if not isinstance(tensor, torch.Tensor):
        raise BackboneError(f"{name} of {type(module).__name__} is no tensor")
    return tensor


def _set(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    old = getattr(module, name)
    if isinstance(old, nn.Parameter):
        tensor = nn.Parameter(tensor, requires_grad=old.requires_grad)
    setattr(module, name, tensor)
