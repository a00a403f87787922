"""The task that a call is for: loaded at the size of a hypernetwork's backbone, or checked."""

from __future__ import annotations

from pass_transfer.arguments import check_is
from pass_transfer.errors import UsageError
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.tasks import Task, load_task


def given_task(hypernet: PretrainedHypernet, task: str | Task, data_dir: str | None) -> Task:
    """A task by its name, or a loaded one.

    Raises:
        UsageError: no hypernetwork, no task, or one whose images are seen in another way.
        TaskError: see load_task.
    """
    check_is("hypernet", hypernet, PretrainedHypernet, "what load_hypernet gives")
    seen, size = hypernet.spec.preprocessing, hypernet.spec.image_size
    if not isinstance(task, Task):
        return load_task(task, seen, data_dir)
    if task.size != size:
        raise UsageError(
            f"the images of {task.name} are loaded at {task.size} pixels; the hypernetwork's "
            f"backbone takes {size}: load_task({task.name!r}, {size})",
            "task",
        )
    if task.preprocessing != seen:
        raise UsageError(
            f"the images of {task.name} are {task.preprocessing}, and the hypernetwork's backbone "
            f"takes them {seen}: load_task({task.name!r}, hypernet.spec.preprocessing)",
            "task",
        )
    return task
