"""Accuracy of a saved model on a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pass_transfer.pruned import load_pruned
from pass_transfer.surroundings import as_guest


@as_guest
def evaluate(
    run: str | Path,
    task: str,
    *,
    data_dir: str | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> dict[str, Any]:
    """Top-1 and top-5 (percent) of a run's model on a task's test images, or on new images.

    New labelled images, in folders by class and in no split, are all used.

    The precision is the one that suits this device, unless another is given. The run's report
    has the command with the device and precision that adapt measured in.

    Returns:
        "top1", "top5", "images" (how many), "which" of the task's images they are, "trained_on"
        (how many of them the network was trained on or chosen by), "classes_without_images",
        "skipped_images", and what was asked.

    Raises:
        RunError, StorageError: see load_pruned.
        TaskError, UsageError: see PrunedModel.evaluate.
    """
    model = load_pruned(run)
    images = model.labelled(task, data_dir)
    accuracy = model.evaluate(images, device=device, precision=precision)
    return {
        "run": str(run),
        "task": task,
        "which": images.which,
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "images": accuracy.images,
        "trained_on": images.learned,
        "classes_without_images": list(images.missing),
        "skipped_images": images.skipped,
    }
