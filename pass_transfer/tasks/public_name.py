"""What a task is called where others read it."""

from __future__ import annotations

from pass_transfer.tasks.parquet import HUB
from pass_transfer.tasks.registry import task_names

OWN_IMAGES = "images of one's own"


def public_name(task: str) -> tuple[str, str | None]:
    """A task's name, and its dataset on the hub if it has one. A folder's path is not told."""
    name = task if task in task_names() else OWN_IMAGES
    return name, HUB[task].repository if task in HUB else None
