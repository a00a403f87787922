"""Runs a backbone under channel masks while they are being searched.

Every reader of a group (the next convolutions, the shortcut projection, the classifier)
sees m * activation, after the non-linearity; the identity path is left alone. There the
score of a dropped channel has a gradient, which before BatchNorm or ReLU it has not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from pass_transfer import ops
from pass_transfer.networks import ChannelGroups
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
    """Put a backbone under fixed masks until the handles are removed; a copy of it stays under them.

    What a convolution writes is masked too, so that a network whose masks cannot be removed
    (independent coupling) computes with no more than they leave: a channel of a residual
    stream then carries what its other convolutions, and this one's BatchNorm, add to it.
    """
    written = [
        backbone.get_submodule(layer).register_forward_hook(_multiply_output(masks[name], units))
        for name, group in groups.items()
        for layer, units in group.writes.items()
        if isinstance(backbone.get_submodule(layer), nn.Conv2d)
    ]
    return _mask_readers(backbone, groups, masks) + written


def _mask_readers(
    backbone: nn.Module, groups: ChannelGroups, masks: Mapping[str, torch.Tensor]
) -> list[RemovableHandle]:
    return [
        backbone.get_submodule(reader).register_forward_pre_hook(_multiply(masks[name], units))
        for name, group in groups.items()
        for reader, units in group.reads.items()
    ]


def _multiply(mask: torch.Tensor, units: torch.Tensor):
    channels = mask[..., units.to(mask.device)] if len(units) != mask.shape[-1] else mask

    def hook(_, args):
        return (ops.mask_channels(args[0], channels.to(args[0].device)), *args[1:])

    return hook


def _multiply_output(mask: torch.Tensor, units: torch.Tensor):
    channels = mask[units.to(mask.device)]

    def hook(_, __, given):
        return ops.mask_channels(given, channels.to(given.device))

    return hook


@contextmanager
def batch_statistics(backbone: nn.Module) -> Iterator[None]:
    """BatchNorm uses the statistics of the batch and writes none; everything else is in eval mode.

    Masks change what flows through the network, so its stored statistics do not fit, and
    a search must not overwrite them.
    """
    norms = [m for m in backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    stored = [(n.track_running_stats, n.running_mean, n.running_var) for n in norms]
    with eval_mode(backbone):
        for norm in norms:
            norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
        try:
            yield
        finally:
            for norm, (tracks, mean, variance) in zip(norms, stored):
                norm.track_running_stats, norm.running_mean, norm.running_var = (
                    tracks,
                    mean,
                    variance,
                )
