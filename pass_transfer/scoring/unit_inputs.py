"""What the readers of a channel group take in of each unit, image by image.

A unit's feature map is looked at where other layers read it: behind normalisation, activation
and pooling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from pass_transfer.masking import batch_statistics
from pass_transfer.networks import ChannelGroup, ChannelGroups, kind_of
from pass_transfer.networks.labels import NONE

# Group, reader, and inputs (B, units, channels of a unit, places).
Look = Callable[[str, str, torch.Tensor], None]


@torch.no_grad()
def observe_units(
    backbone: nn.Module,
    groups: ChannelGroups,
    samples: Iterable[tuple[torch.Tensor, torch.Tensor]],
    forward: Callable[[torch.Tensor], torch.Tensor],
    look: Look,
) -> None:
    """Show every group's inputs to each of its readers, float32.

    Args:
        backbone: the network `forward` runs.
        samples: batches of images (B, 3, S, S) in [0, 1] and labels, on the backbone's device.
        forward: images through the backbone.
        look: sees each reader's inputs of each batch.
    """
    handles = []
    for group in groups.values():
        for name in _readers(backbone, group):
            layer, see = backbone.get_submodule(name), _seen(backbone, group, name)
            handles.append(
                layer.register_forward_pre_hook(
                    lambda _, given, g=group.name, n=name, see=see: look(g, n, see(given[0]))
                )
            )
    try:
        with batch_statistics(backbone):
            for images, _ in samples:
                forward(images)
    finally:
        for handle in handles:
            handle.remove()


def _readers(backbone: nn.Module, group: ChannelGroup) -> list[str]:
    """Those that mix the group's channels, or all of them where none does."""
    mixing = [n for n in group.reads if kind_of(backbone.get_submodule(n)).mixes_channels]
    return mixing or list(group.reads)


def _seen(
    backbone: nn.Module, group: ChannelGroup, name: str
) -> Callable[[torch.Tensor], torch.Tensor]:
    """What turns a reader's input into (B, units, channels of a unit, places)."""
    kind, units = kind_of(backbone.get_submodule(name)), group.reads[name]
    by_unit = torch.argsort(units, stable=True)[int((units == NONE).sum()) :]
    flattened = name in group.places

    def see(given: torch.Tensor) -> torch.Tensor:
        maps = kind.channels_first(given).float()
        maps = maps.flatten(2) if maps.ndim > 2 else maps.unsqueeze(2)
        mine = maps[:, by_unit.to(given.device)]
        shape = (1, -1) if flattened else (-1, mine.shape[2])
        return mine.reshape(len(mine), group.width, *shape)

    return see
