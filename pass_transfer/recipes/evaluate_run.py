"""Accuracy of a saved model on a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pass_transfer.errors import TaskError
from pass_transfer.pruned import load_pruned
from pass_transfer.tasks import load_task
from pass_transfer.training import choose_runtime, evaluate


def evaluate_run(run: str | Path, task: str, *, data_dir: str | None = None, device: str = "auto", precision: str = "auto") -> dict[str, Any]:
    """Top-1 and top-5 (percent) of a run's model on a task's test images, in the precision adapt measured with.

    Raises:
        TaskError: the task's classes are not the model's.
    """
    model = load_pruned(run)
    data = load_task(task, model.spec.image_size, data_dir)
    if data.class_names != model.class_names:
        raise TaskError(f"{task} has {data.classes} classes ({data.class_names[0]}, ...), the model in {run} was made for "
                        f"{len(model.class_names)} ({model.class_names[0]}, ...); evaluate it on the task it was made for")
    runtime = choose_runtime(device, precision)
    runtime.place(model.network)
    accuracy = evaluate(model.network, data.test, runtime)
    return {"run": str(run), "task": task, "top1": accuracy.top1, "top5": accuracy.top5, "images": accuracy.images}
