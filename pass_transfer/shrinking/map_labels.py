"""A classifier for a task out of the source's own, by what is predicted for the task's images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from pass_transfer.label_mapping import count_predictions, frequency_mapping, mapped_classifier
from pass_transfer.networks import kind_of
from pass_transfer.shrinking.classifier import some_batches
from pass_transfer.tasks import Task
from pass_transfer.training import Runtime, to_images

IMAGES = 5000  # predictions counted


@torch.no_grad()
def map_labels(
    source: nn.Module,
    predict: Callable[[torch.Tensor], torch.Tensor],
    task: Task,
    runtime: Runtime,
    seed: int = 0,
) -> nn.Module:
    """The rows of a source classifier that a task's classes are mapped to by frequency.

    Args:
        source: the whole source classifier.
        predict: images (B, 3, S, S) in [0, 1] to logits (B, source classes).

    Returns:
        A classifier (features to classes), on the runtime's device.
    """
    total = torch.zeros(task.classes, kind_of(source).output_channels(source), dtype=torch.int64)
    for pixels, labels in some_batches(task.train, IMAGES, seed, runtime.processes):
        with runtime.autocast():
            total += count_predictions(
                predict(to_images(pixels, runtime.device)).float().cpu(), labels, task.classes
            )
    runtime.processes.add_up([total])
    return runtime.place(mapped_classifier(source, frequency_mapping(total)))
