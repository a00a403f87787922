"""Masks to a small network that is ready to fine-tune: removal, BatchNorm, classifier."""

from __future__ import annotations

import copy

import torch
from torch import nn

from pass_transfer.recipes.heads import fit_head, set_classifier, some_batches
from pass_transfer.label_mapping import count_predictions, frequency_mapping, mapped_classifier
from pass_transfer.backbones import ChannelGroups, classifier_name
from pass_transfer.masks import ChannelMasks
from pass_transfer.network import Network
from pass_transfer.prompts import Prompt
from pass_transfer.surgery import remove_channels
from pass_transfer.tasks import Task
from pass_transfer.training import Runtime, recalibrate, to_images

MAPPING_IMAGES = 5000  # predictions counted for a frequency mapping


def shrink(backbone: nn.Module, groups: ChannelGroups, masks: ChannelMasks | None, mean, std, prompt: Prompt | None, task: Task,
           mapping: str, runtime: Runtime, seed: int = 0) -> Network:
    """The network that fine-tuning starts from.

    Args:
        backbone: dense, with the source classifier; left as it is.
        masks: channels to keep; None keeps the dense network.
        mapping: "linear" for a new classifier from class means, "frequency" for the
            source classifier's rows, mapped one to one by the dense network's predictions.

    Returns:
        A Network with BatchNorm recalibrated on training images of the task.
    """
    small = copy.deepcopy(backbone) if masks is None else remove_channels(backbone, masks, groups)
    network = runtime.place(Network(small, mean, std, prompt))
    network.requires_grad_(True)
    if mapping != "linear":
        dense = runtime.place(Network(copy.deepcopy(backbone), mean, std, prompt))
        recalibrate(dense, task.train, runtime, seed=seed)
        counts = _count(dense, task, runtime, seed)
        name = classifier_name(small)
        set_classifier(network.backbone, runtime.place(mapped_classifier(network.backbone.get_submodule(name), frequency_mapping(counts))))
    recalibrate(network, task.train, runtime, seed=seed)
    if mapping == "linear":
        fit_head(network, task.train, task.classes, runtime, seed)
    return network


@torch.no_grad()
def _count(network: Network, task: Task, runtime: Runtime, seed: int) -> torch.Tensor:
    total = 0
    for pixels, labels in some_batches(task.train, MAPPING_IMAGES, seed):
        with runtime.autocast():
            logits = network(to_images(pixels, runtime.device)).float().cpu()
        total = total + count_predictions(logits, labels, task.classes)
    return total
