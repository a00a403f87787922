"""Masks to a small network that is ready to fine-tune: removal, BatchNorm, classifier.

Single weights are not removed: they become zeros, which stay zeros in training.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from pass_transfer.masking import mask_layers
from pass_transfer.masks import ChannelMasks
from pass_transfer.networks import ChannelGroups, classifier_of, set_classifier
from pass_transfer.networks.network import Network
from pass_transfer.networks.pretrained import PretrainedBackbone
from pass_transfer.networks.removal import remove_channels
from pass_transfer.shrinking.classifier import fit_head
from pass_transfer.shrinking.folding import folded
from pass_transfer.shrinking.map_labels import map_labels
from pass_transfer.shrinking.recalibrate import recalibrate
from pass_transfer.shrinking.reconstruct import (
    FITS,
    FOLD,
    LEAST_SQUARES,
    Reconstruction,
    reconstruct_readers,
)
from pass_transfer.tasks import Task
from pass_transfer.training import Runtime
from pass_transfer.weight_masks import WeightMasks


@dataclass(frozen=True)
class ShrinkConfig:
    """How a cut network is made ready.

    Fields:
        mapping: "linear" for a new classifier from class means; or the source classifier's
            rows, mapped one to one by the predictions of the dense network ("frequency") or
            of the small one itself ("iterative"); or those of the same classes ("same").
        reconstruct: whether kept channels take over what cut ones carried: True for least
            squares, or one of reconstruct.WAYS by its name.
        seed: of the images that are looked at.
    """

    mapping: str = "linear"
    reconstruct: bool | str = True
    seed: int = 0


def shrink(
    dense: PretrainedBackbone,
    groups: ChannelGroups,
    masks: ChannelMasks | WeightMasks | None,
    prompt: nn.Module | None,
    task: Task,
    config: ShrinkConfig,
    runtime: Runtime,
) -> Network:
    """The network that fine-tuning starts from.

    Args:
        dense: with the source classifier.
        groups: what the masks are of. With independent coupling they cannot be removed: the
            network keeps its size and runs under them.
        masks: channels or single weights to keep; None keeps the dense network.
        prompt: becomes part of the network.

    Returns:
        A Network with BatchNorm recalibrated on training images of the task.
    """
    small, spec, seed = dense.fresh(), dense.spec, config.seed
    if isinstance(masks, WeightMasks):
        masks.zero_(small)
        masks.hold(small)
    changed = masks is not None
    masks = masks if isinstance(masks, ChannelMasks) else None
    way = LEAST_SQUARES if config.reconstruct is True else config.reconstruct
    if masks is not None and way == FOLD:
        small = folded(small, masks, groups)
    under_masks = masks is not None and groups.coupling != "grouped"
    if masks is not None and not under_masks:
        small = remove_channels(small, masks, groups)
    handles = mask_layers(small, groups, masks) if masks is not None and under_masks else []
    network = runtime.place(Network(small, spec.mean, spec.std, prompt))
    whole = network
    fitted = masks is not None and way in FITS
    if fitted or (changed and config.mapping == "frequency"):
        whole = runtime.place(Network(dense.fresh(), spec.mean, spec.std, prompt))
        recalibrate(whole, task.train, runtime, seed=seed)
    if masks is not None and fitted:
        how = Reconstruction(str(way), seed=seed)
        reconstruct_readers(whole, small, masks, groups, task.train, runtime, how)
    network.requires_grad_(True)
    recalibrate(network, task.train, runtime, seed=seed)
    if config.mapping == "linear":
        fit_head(network, task.train, task.classes, runtime, seed)
    elif config.mapping != "same":
        judge = whole if config.mapping == "frequency" else network
        source = classifier_of(small)
        set_classifier(small, map_labels(source, judge, task, runtime, seed))
    for handle in handles:
        handle.remove()
    if masks is not None and under_masks:
        mask_layers(small, groups, masks)  # the classifier is another one now
    return network
