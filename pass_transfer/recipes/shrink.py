"""Masks to a small network that is ready to fine-tune: removal, BatchNorm, classifier."""

from __future__ import annotations

from torch import nn

from pass_transfer.recipes.heads import fit_head, set_classifier
from pass_transfer.label_mapping import count_predictions, frequency_mapping, mapped_classifier
from pass_transfer.backbones import ChannelGroups, classifier_name
from pass_transfer.masks import ChannelMasks
from pass_transfer.network import Network
from pass_transfer.prompts import Prompt
from pass_transfer.surgery import remove_channels
from pass_transfer.tasks import Task
from pass_transfer.training import Runtime, batches, recalibrate, to_images

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
    small = backbone if masks is None else remove_channels(backbone, masks, groups)
    network = runtime.place(Network(small if masks is not None else _copy(backbone), mean, std, prompt))
    network.requires_grad_(True)
    if mapping != "linear":
        dense = runtime.place(Network(_copy(backbone), mean, std, prompt))
        recalibrate(dense, task.train, runtime, seed=seed)
        counts = _count(dense, task, runtime, seed)
        name = classifier_name(small)
        set_classifier(network.backbone, runtime.place(mapped_classifier(network.backbone.get_submodule(name), frequency_mapping(counts))))
    recalibrate(network, task.train, runtime, seed=seed)
    if mapping == "linear":
        fit_head(network, task.train, task.classes, runtime, seed)
    return network


def _copy(module: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(module)


def _count(network: Network, task: Task, runtime: Runtime, seed: int):
    import torch

    total = None
    seen = 0
    with torch.no_grad():
        for pixels, labels in batches(task.train, min(256, len(task.train)), seed=seed):
            with runtime.autocast():
                logits = network(to_images(pixels, runtime.device)).float().cpu()
            counts = count_predictions(logits, labels, task.classes)
            total = counts if total is None else total + counts
            seen += len(labels)
            if seen >= MAPPING_IMAGES:
                break
    return total
