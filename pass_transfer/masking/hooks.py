"""Runs a backbone under channel masks while they are being searched.

Every reader of a group (the next convolutions, the shortcut projection, the classifier)
sees m * activation, after the non-linearity; the identity path is left alone. There the
score of a dropped channel has a gradient, which before BatchNorm or ReLU it has not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from pass_transfer import ops
from pass_transfer.networks import ChannelGroups, LayerKind, kind_of, named_layers
from pass_transfer.networks.labels import NONE
from pass_transfer.networks.modes import eval_mode


@contextmanager
def masked(
    backbone: nn.Module, groups: ChannelGroups, masks: Mapping[str, torch.Tensor]
) -> Iterator[nn.Module]:
    """Within this context, the backbone runs under masks.

    Args:
        backbone: unchanged outside of the context.
        masks: (width,) for each group, or (B, width) for a mask of each sample's own; bool
            or floating. A floating mask gets its exact gradient, the sum over the group's
            readers of <activation, dL/d(masked activation)>.
    """
    handles = _mask_readers(backbone, groups, masks)
    try:
        yield backbone
    finally:
        for handle in handles:
            handle.remove()


def mask_layers(
    backbone: nn.Module, groups: ChannelGroups, masks: Mapping[str, torch.Tensor]
) -> list[RemovableHandle]:
    """Put a backbone under fixed masks until the handles are removed; its copies stay under them.

    What a layer writes is masked too, so that a network whose masks cannot be removed
    (independent coupling) computes with no more than they leave: a channel of a residual
    stream then carries what its other convolutions, and this one's BatchNorm, add to it.
    """
    handles = _mask_readers(backbone, groups, masks)
    makers = {n for n, _, _ in named_layers(backbone, lambda kind: kind.makes_channels)}
    for layer, mask in _masks_of_layers([(g.writes, masks[n]) for n, g in groups.items()]):
        if layer in makers:
            module = backbone.get_submodule(layer)
            hook = _multiply_output(kind_of(module), mask)
            handles.append(module.register_forward_hook(hook))
    return handles


def _mask_readers(
    backbone: nn.Module, groups: ChannelGroups, masks: Mapping[str, torch.Tensor]
) -> list[RemovableHandle]:
    handles = []
    for layer, mask in _masks_of_layers([(g.reads, masks[n]) for n, g in groups.items()]):
        module = backbone.get_submodule(layer)
        handles.append(module.register_forward_pre_hook(_multiply(kind_of(module), mask)))
    return handles


def _masks_of_layers(
    sides: Iterable[tuple[Mapping[str, torch.Tensor], torch.Tensor]],
) -> Iterator[tuple[str, torch.Tensor]]:
    """By layer, the mask (C,), or (B, C), of its channels; ones for those of no group.

    Args:
        sides: of each group, the units by layer, and the mask of the units.
    """
    parts: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for units_by_layer, mask in sides:
        for layer, units in units_by_layer.items():
            parts.setdefault(layer, []).append((units.to(mask.device), mask))
    for layer, of_layer in parts.items():
        yield layer, _of_channels(of_layer)


def _of_channels(parts: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """One mask of a layer's channels from those of the groups that they belong to."""
    units, mask = parts[0]
    if len(parts) == 1 and not bool((units == NONE).any()):
        return mask[..., units] if len(units) != mask.shape[-1] else mask
    joined = torch.cat([mask for _, mask in parts] + [torch.ones_like(mask[..., :1])], dim=-1)
    place = torch.full_like(units, joined.shape[-1] - 1)  # of the one, for channels of no group
    first = 0
    for units, mask in parts:
        place = torch.where(units == NONE, place, units + first)
        first += mask.shape[-1]
    return joined[..., place]


def _multiply(kind: LayerKind[Any], channels: torch.Tensor) -> Callable[..., Any]:
    def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (_masked_channels(kind, args[0], channels), *args[1:])

    return hook


def _multiply_output(kind: LayerKind[Any], channels: torch.Tensor) -> Callable[..., Any]:
    def hook(_: nn.Module, __: tuple[Any, ...], made: torch.Tensor) -> torch.Tensor:
        return _masked_channels(kind, made, channels)

    return hook


def _masked_channels(
    kind: LayerKind[Any], value: torch.Tensor, channels: torch.Tensor
) -> torch.Tensor:
    """A layer's input or output times a mask (C,), or (B, C), on the axis of its channels."""
    channels = channels.to(value.device)
    if channels.ndim == 2 and len(channels) < len(value):  # windows of one image lie side by side
        channels = channels.repeat_interleave(len(value) // len(channels), 0)
    axis = kind.channel_axis % value.ndim
    if axis == 1:
        return ops.mask_channels(value, channels)
    return ops.mask_channels(value.movedim(axis, 1), channels).movedim(1, axis)


@contextmanager
def batch_statistics(backbone: nn.Module) -> Iterator[None]:
    """BatchNorm uses the statistics of the batch and writes none; everything else is in eval mode.

    Masks change what flows through the network, so its stored statistics do not fit, and
    a search must not overwrite them.
    """
    norms = named_layers(backbone, lambda kind: kind.running_statistics)
    with eval_mode(backbone):
        undo = [kind.use_batch_statistics(norm) for _, norm, kind in norms]
        try:
            yield
        finally:
            for put_back in undo:
                put_back()
