"""Masks to a small network that is ready to fine-tune: removal, BatchNorm, classifier."""

from __future__ import annotations

import copy

from torch import nn

from pass_transfer.masking import mask_layers
from pass_transfer.masks import ChannelMasks
from pass_transfer.networks import ChannelGroups, classifier_name, set_classifier
from pass_transfer.networks.network import Network
from pass_transfer.networks.removal import remove_channels
from pass_transfer.prompts import Prompt
from pass_transfer.shrinking.classifier import fit_head
from pass_transfer.shrinking.map_labels import map_labels
from pass_transfer.shrinking.recalibrate import recalibrate
from pass_transfer.shrinking.reconstruct import reconstruct_readers
from pass_transfer.tasks import Task
from pass_transfer.training import Runtime


def shrink(
    backbone: nn.Module,
    groups: ChannelGroups,
    masks: ChannelMasks | None,
    mean,
    std,
    prompt: Prompt | None,
    task: Task,
    mapping: str,
    runtime: Runtime,
    seed: int = 0,
    reconstruct: bool = True,
) -> Network:
    """The network that fine-tuning starts from.

    Args:
        backbone: dense, with the source classifier; left as it is.
        masks: channels to keep; None keeps the dense network. With independent coupling they
            cannot be removed: the network keeps its size and runs under them.
        mapping: "linear" for a new classifier from class means; or the source
            classifier's rows, mapped one to one by the predictions of the dense network
            ("frequency") or of the small one itself ("iterative").
        reconstruct: whether kept channels take over what cut ones carried (reconstruct.py).

    Returns:
        A Network with BatchNorm recalibrated on training images of the task.
    """
    removed = masks is not None and groups.coupling == "grouped"
    small = remove_channels(backbone, masks, groups) if removed else copy.deepcopy(backbone)
    handles = mask_layers(small, groups, masks) if masks is not None and not removed else []
    network = runtime.place(Network(small, mean, std, prompt))
    dense = network
    if masks is not None and (reconstruct or mapping == "frequency"):
        dense = runtime.place(Network(copy.deepcopy(backbone), mean, std, prompt))
        recalibrate(dense, task.train, runtime, seed=seed)
    if masks is not None and reconstruct:
        reconstruct_readers(dense, small, masks, groups, task.train, runtime, seed=seed)
    network.requires_grad_(True)
    recalibrate(network, task.train, runtime, seed=seed)
    if mapping == "linear":
        fit_head(network, task.train, task.classes, runtime, seed)
    else:
        judge = dense if mapping == "frequency" else network
        set_classifier(
            small,
            map_labels(small.get_submodule(classifier_name(small)), judge, task, runtime, seed),
        )
    if handles:  # the classifier is another one now
        for handle in handles:
            handle.remove()
        mask_layers(small, groups, masks)
    return network
