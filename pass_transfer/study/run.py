"""Running a study: what is missing is made, what is there is kept, what fails is written down.

Any number of processes may work on one study (several terminals, a job array): a lock
on each search hands the work out. A process that dies leaves nothing but its lock, which
the system lets go.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import torch
from filelock import FileLock, Timeout

from pass_transfer.errors import PassTransferError, RunError
from pass_transfer.files import make_folder, read_json, write_json
from pass_transfer.progress import say
from pass_transfer.study.cell import make_cell, origin
from pass_transfer.study.plan import Cell, Study
from pass_transfer.tasks import Task, load_task
from pass_transfer.training import choose_runtime
from pass_transfer.zoo.entry import load_hypernet

LOCKS = "locks"


def run_study(study: Study, *, device: str = "auto", precision: str = "auto", retry_failed: bool = False) -> dict[str, int]:
    """Make the cells of a study that are not there.

    Args:
        retry_failed: whether cells that failed before are tried again.

    Returns:
        How many cells are "done", "failed" and "elsewhere" (with another process) now.

    Raises:
        RunError: a cell in the folder that belongs to another study.
        PassTransferError: an entry or a task that cannot be loaded.
    """
    missing = [cell for cell in study.cells() if is_missing(study, cell, retry_failed)]
    if missing:
        entry, runtime = load_hypernet(study.hypernet), choose_runtime(device, precision)
        say(f"{len(missing)} of {len(study.cells())} cells to make, on {runtime.reason}")
        tasks = {name: _part(load_task(name, entry.spec.image_size, study.tasks[name]), study.train_images) for name in {cell.task for cell in missing}}
        for cells in _mine(study, missing):
            for cell in cells:
                if is_missing(study, cell, retry_failed):
                    _settle(study, cell, lambda: make_cell(study, cell, entry, tasks[cell.task], runtime))
    notes = [read_json(path_of(study, cell)) if path_of(study, cell).exists() else None for cell in study.cells()]
    return {"done": sum(note is not None and "failed" not in note for note in notes), "failed": sum(note is not None and "failed" in note for note in notes),
            "elsewhere": sum(note is None for note in notes)}


def path_of(study: Study, cell: Cell) -> Path:
    """A cell's file."""
    return study.out / f"{cell.name}.json"


def is_missing(study: Study, cell: Cell, retry_failed: bool = False) -> bool:
    """Whether a cell is still to be made. Raises RunError for one of another study under its name."""
    path = path_of(study, cell)
    if not path.exists():
        return True
    note = read_json(path)
    if not isinstance(note, dict) or note.get("config") != study.identity(cell):
        raise RunError(f"{path} was made with other settings than this study's; give the study another `out`, or remove that file")
    return retry_failed and "failed" in note


def _part(task: Task, images: int | None) -> Task:
    return task if images is None or images >= len(task.train) else task.with_train(images)


def _mine(study: Study, cells: list[Cell]) -> Iterator[list[Cell]]:
    """Cells of one search after the other, each while its lock is held; what another process holds is left to it."""
    folder = make_folder(study.out / LOCKS)
    for key, group in itertools.groupby(cells, key=lambda cell: (cell.seed, cell.task, cell.method)):
        seed, task, method = key
        lock = FileLock(folder / f"{Cell(task, method, 0, seed).name}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        try:
            yield list(group)
        finally:
            lock.release()


def _settle(study: Study, cell: Cell, make: Callable[[], dict[str, Any]]) -> None:
    """Write a cell's figures, or why there are none."""
    start = time.monotonic()
    config = {"config": study.identity(cell), **origin()}
    try:
        note = make()
        say(f"{cell.name}: top-1 {note['top1']:.2f} % with {note['macs_share']:.1%} of the MACs, {note['seconds']:.0f} s")
    except (PassTransferError, RuntimeError, MemoryError, ArithmeticError) as error:
        why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        note = {"method": cell.method, "task": cell.task, "budget": cell.budget, "seed": cell.seed, "failed": why, "seconds": round(time.monotonic() - start, 2)}
        say(f"{cell.name} failed: {why}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    write_json(path_of(study, cell), note | config)
