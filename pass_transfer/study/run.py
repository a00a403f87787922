"""Running a study: what is missing is made, what is there is kept, what fails is written down.

Any number of processes may work on one study (several terminals, a job array): a lock
on each search hands the work out. A process that dies leaves nothing but its lock, which
the system lets go.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator
from typing import Any

import torch
from filelock import FileLock, Timeout

from pass_transfer.errors import UsageError
from pass_transfer.files import make_folder, write_json
from pass_transfer.progress import say
from pass_transfer.provenance import provenance
from pass_transfer.recipes.given_network import GivenNetwork
from pass_transfer.recipes.pipeline import Job, check_budget
from pass_transfer.study.cell import drop_search, job_of, make_cell, network_of
from pass_transfer.study.plan import Cell, Study
from pass_transfer.study.store import IMAGES, is_missing, path_of, read_cell
from pass_transfer.surroundings import as_guest
from pass_transfer.tasks import Task, load_task
from pass_transfer.tasks.few_images import few_images
from pass_transfer.training import Runtime, choose_runtime

LOCKS = "locks"


def made_with(given: GivenNetwork, runtime: Runtime) -> dict[str, Any]:
    """What decides all cells alike, besides the study's settings.

    Several CPU threads share each batch out (training/replicas.py), so that their number
    counts, too.
    """
    identity = given.identity
    whose = {"entry": identity["fingerprint"]}
    if given.network is not None:
        whose = {"set of weights": identity["backbone"]}
    found: dict[str, Any] = {
        **whose,
        "device": runtime.device.type,
        "precision": runtime.precision,
    }
    if runtime.device.type == "cpu":
        found["threads"] = torch.get_num_threads()
    return found


@as_guest
def run_study(
    study: Study, *, device: str = "auto", precision: str = "auto", retry_failed: bool = False
) -> dict[str, int]:
    """Make the cells of a study that are not there.

    Args:
        retry_failed: whether cells that failed before are tried again.

    Returns:
        How many cells are "done", "failed" and "elsewhere" (with another process) now.

    Raises:
        RunError: a cell in the folder that belongs to another study, or was made with another
            entry, device, precision or number of threads.
        UsageError: several processes that were started as one; they share a study each on its
            own.
        MaskError: a budget that no mask can meet.
        PassTransferError: an entry or a task that cannot be loaded.
        KeyboardInterrupt: its text says how to continue.
    """
    given, runtime = network_of(study), choose_runtime(device, precision)
    if runtime.processes.count > 1:
        raise UsageError(
            "a study is not shared out by accelerate launch or torchrun: start it once for every "
            "process, and each takes cells that no other one has"
        )
    work = _Work(study, given, runtime, retry_failed)
    todo = [cell for cell in study.cells() if work.missing(cell)]
    if todo:
        _make(work, todo)
    notes = [read_cell(study, cell) for cell in study.cells()]
    there = [note for note in notes if note is not None]
    failed = sum("failed" in note for note in there)
    done, elsewhere = len(there) - failed, len(notes) - len(there)
    return {"done": done, "failed": failed, "elsewhere": elsewhere}


class _Work:
    """A study with what it runs on.

    Args:
        retry_failed: whether a failure that is there when this begins is made again.
    """

    def __init__(self, study: Study, given: GivenNetwork, runtime: Runtime, retry_failed: bool):
        self.study, self.given, self.runtime = study, given, runtime
        self.alike = made_with(given, runtime)
        self.whole: dict[tuple[str, str | None], Task] = {}
        self.tasks: dict[tuple[str, int], Task] = {}
        self.again: dict[Cell, int] = {}
        for cell in study.cells() if retry_failed else ():
            if "failed" in (read_cell(study, cell) or {}):
                self.again[cell] = self._written_at(cell)

    def _written_at(self, cell: Cell) -> int:
        return path_of(self.study, cell).stat().st_mtime_ns

    def missing(self, cell: Cell) -> bool:
        """Whether a cell is to be made by somebody."""
        if is_missing(self.study, cell, self.alike):
            return True
        return cell in self.again and self._written_at(cell) == self.again[cell]

    def made_from(self, task: Task) -> dict[str, Any]:
        """What decides a task's cells besides the study's settings: its images too."""
        return {**self.alike, IMAGES: task.record.fingerprint()}

    def task(self, cell: Cell) -> Task:
        """A cell's task with as many training images as the study uses."""
        key = cell.task, cell.seed
        if key not in self.tasks:
            planned, images = self.study.tasks[cell.task], self.study.train_images
            task = self._loaded(planned.name, planned.data)
            if images is not None and images < len(task.train):
                task = task.with_train(images)
            self.tasks[key] = few_images(task, planned.images_per_class, cell.seed)
        return self.tasks[key]

    def _loaded(self, name: str, data: str | None) -> Task:
        """A whole task, loaded once."""
        if (name, data) not in self.whole:
            self.whole[name, data] = load_task(name, self.given.dense.spec.preprocessing, data)
        return self.whole[name, data]

    def job(self, cell: Cell, task: Task) -> Job:
        """What a cell makes."""
        return job_of(self.study, cell, self.given, task, self.runtime)


def _make(work: _Work, todo: list[Cell]) -> None:
    """Make cells, search by search, as far as no other process does."""
    study = work.study
    names = {cell.task for cell in todo}
    for cell in study.cells():
        if cell.task in names:
            read_cell(study, cell, work.made_from(work.task(cell)))
    for cell in {(cell.task, cell.method, cell.budget): cell for cell in todo}.values():
        check_budget(work.job(cell, work.task(cell)))
    say(f"{len(todo)} of {len(study.cells())} cells to make, on {work.runtime.reason}")
    try:
        for cells in _mine(study, todo):
            for cell in filter(work.missing, cells):
                if cell in work.again:
                    drop_search(study, cell)
                _settle(work, cell, work.task(cell))
    except KeyboardInterrupt as stop:
        kept = f"finished cells are kept in {study.out}, continue with the same command"
        raise KeyboardInterrupt(f"{stop or 'interrupted'}; {kept}") from stop


def _mine(study: Study, cells: list[Cell]) -> Iterator[list[Cell]]:
    """Cells of one search after the other, each while its lock is held.

    What another process holds is left to it.
    """
    folder = make_folder(study.out / LOCKS)
    for searched, group in itertools.groupby(cells, key=lambda cell: _search(study, cell)):
        lock = FileLock(folder / f"{searched.name}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        try:
            yield list(group)
        finally:
            lock.release()


def _search(study: Study, cell: Cell) -> Cell:
    """What stands for a cell's search, whatever the budget."""
    return dataclasses.replace(study.search_of(cell), budget=0)


def _settle(work: _Work, cell: Cell, task: Task) -> None:
    """Write a cell's figures, or why there are none."""
    study, start = work.study, time.monotonic()
    alike = work.made_from(task)
    config = {"config": study.identity(cell), "made_with": alike, **provenance()}
    try:
        note = make_cell(study, cell, work.job(cell, task), alike)
        share = f"{note['macs_share']:.1%} of the MACs"
        say(f"{cell.name}: top-1 {note['top1']:.2f} % with {share}, {note['seconds']:.0f} s")
    except Exception as error:  # whatever it is, the other cells are not to be lost to it
        why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        seconds = round(time.monotonic() - start, 2)
        note = {**dataclasses.asdict(cell), "failed": why, "seconds": seconds}
        say(f"{cell.name} failed: {why}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    write_json(path_of(study, cell), note | config)
