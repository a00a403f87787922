"""Running a study: what is missing is made, what is there is kept, what fails is written down.

Any number of processes may work on one study (several terminals, a job array): a lock
on each search hands the work out. A process that dies leaves nothing but its lock, which
the system lets go.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from filelock import FileLock, Timeout

from pass_transfer.budgets.ranking import select
from pass_transfer.errors import UsageError
from pass_transfer.files import make_folder, write_json
from pass_transfer.progress import say
from pass_transfer.provenance import provenance
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.scoring.random import random_scores
from pass_transfer.study.cell import context_of, drop_search, make_cell
from pass_transfer.study.plan import Cell, Study
from pass_transfer.study.store import is_missing, path_of, read_cell
from pass_transfer.tasks import Task, load_task
from pass_transfer.training import Runtime, choose_runtime
from pass_transfer.zoo.entry import load_hypernet

LOCKS = "locks"


def made_with(entry: PretrainedHypernet, runtime: Runtime) -> dict[str, str]:
    """What decides all cells alike, besides the study's settings."""
    return {
        "entry": entry.fingerprint(),
        "device": runtime.device.type,
        "precision": runtime.precision,
    }


def run_study(
    study: Study, *, device: str = "auto", precision: str = "auto", retry_failed: bool = False
) -> dict[str, int]:
    """Make the cells of a study that are not there.

    Args:
        retry_failed: whether cells that failed before are tried again.

    Returns:
        How many cells are "done", "failed" and "elsewhere" (with another process) now.

    Raises:
        RunError: a cell in the folder that belongs to another study, or was made with another entry, device or precision.
        UsageError: several processes that were started as one; they share a study each on its own.
        MaskError: a budget that no mask can meet.
        PassTransferError: an entry or a task that cannot be loaded.
        KeyboardInterrupt: its text says how to continue.
    """
    entry, runtime = load_hypernet(study.hypernet), choose_runtime(device, precision)
    if runtime.accelerator.num_processes > 1:
        raise UsageError(
            "a study is not shared out by accelerate launch or torchrun: start pass-transfer study run once for every process, and each takes cells that no other one has"
        )
    alike = made_with(entry, runtime)
    again = {
        cell: path_of(study, cell).stat().st_mtime_ns
        for cell in study.cells()
        if retry_failed and "failed" in (read_cell(study, cell) or {})
    }

    def missing(cell: Cell) -> bool:
        """To be made by somebody; a failure counts if it is the one that was there when this process began."""
        return is_missing(study, cell, alike) or path_of(
            study, cell
        ).stat().st_mtime_ns == again.get(cell)

    todo = [cell for cell in study.cells() if missing(cell)]
    if todo:
        tasks = {
            name: _part(
                load_task(name, entry.spec.image_size, study.tasks[name]), study.train_images
            )
            for name in {cell.task for cell in todo}
        }
        _check_budgets(study, todo, entry, tasks, runtime)
        say(f"{len(todo)} of {len(study.cells())} cells to make, on {runtime.reason}")
        try:
            for cells in _mine(study, todo):
                for cell in filter(missing, cells):
                    if cell in again:
                        drop_search(study, cell)
                    _settle(
                        study,
                        cell,
                        alike,
                        lambda: make_cell(study, cell, entry, tasks[cell.task], runtime, alike),
                    )
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(
                f"{stop or 'interrupted'}; finished cells are kept in {study.out}, continue with the same command"
            ) from stop
    notes = [read_cell(study, cell) for cell in study.cells()]
    return {
        "done": sum(note is not None and "failed" not in note for note in notes),
        "failed": sum(note is not None and "failed" in note for note in notes),
        "elsewhere": sum(note is None for note in notes),
    }


def _part(task: Task, images: int | None) -> Task:
    return task if images is None or images >= len(task.train) else task.with_train(images)


def _check_budgets(
    study: Study,
    cells: list[Cell],
    entry: PretrainedHypernet,
    tasks: Mapping[str, Task],
    runtime: Runtime,
) -> None:
    """Cut chance scores to every budget. Raises MaskError before any search for one that cannot be met."""
    for cell in {(cell.task, cell.method, cell.budget): cell for cell in cells}.values():
        method, context = context_of(study, cell, entry, tasks[cell.task], runtime)
        select(
            random_scores(context.groups, 0),
            context.groups,
            macs=cell.budget,
            table=context.table,
            uniform=method.uniform,
        )


def _mine(study: Study, cells: list[Cell]) -> Iterator[list[Cell]]:
    """Cells of one search after the other, each while its lock is held; what another process holds is left to it."""
    folder = make_folder(study.out / LOCKS)
    for key, group in itertools.groupby(
        cells, key=lambda cell: (cell.seed, cell.task, cell.method)
    ):
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


def _settle(
    study: Study, cell: Cell, alike: Mapping[str, str], make: Callable[[], dict[str, Any]]
) -> None:
    """Write a cell's figures, or why there are none."""
    start = time.monotonic()
    config = {"config": study.identity(cell), "made_with": dict(alike), **provenance()}
    try:
        note = make()
        say(
            f"{cell.name}: top-1 {note['top1']:.2f} % with {note['macs_share']:.1%} of the MACs, {note['seconds']:.0f} s"
        )
    except Exception as error:  # whatever it is, the other cells are not to be lost to it
        why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        note = {
            "method": cell.method,
            "task": cell.task,
            "budget": cell.budget,
            "seed": cell.seed,
            "failed": why,
            "seconds": round(time.monotonic() - start, 2),
        }
        say(f"{cell.name} failed: {why}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    write_json(path_of(study, cell), note | config)
