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
    """Top-1 and top-5 (percent) of a run's model on a task's test images.

    The precision is the one that suits this device, unless another is given. The run's report
    has the command with the device and precision that adapt measured in.

    Raises:
        RunError, StorageError: see load_pruned.
        TaskError, UsageError: see PrunedModel.evaluate.
    """
    accuracy = load_pruned(run).evaluate(task, data_dir, device, precision)
    return {
        "run": str(run),
        "task": task,
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "images": accuracy.images,
    }
