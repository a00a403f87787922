"""Datasets by name or folder, as labelled images in three splits."""

from pass_transfer.tasks.images import read_image
from pass_transfer.tasks.registry import load_task, task_names
from pass_transfer.tasks.task import Split, Task

__all__ = ["Split", "Task", "load_task", "read_image", "task_names"]
