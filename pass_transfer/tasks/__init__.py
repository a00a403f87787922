"""Datasets by name or folder, as labelled images in three splits."""

from pass_transfer.tasks.task import Split, Task
from pass_transfer.tasks.registry import load_task, task_names

__all__ = ["Split", "Task", "load_task", "task_names"]
