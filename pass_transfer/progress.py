"""Progress on stderr: a bar with speed and time left on a terminal, sparse lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pass_transfer.first_process import is_first

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# Between two lines where stderr is a file: often enough to follow, rare enough for a log.
LINE_SECONDS = 30.0


def say(message: str) -> None:
    """One line of progress or explanation on stderr, by the first process of a job alone."""
    if not is_first():
        return
    print(message, file=sys.stderr, flush=True)


def _speed(rate: float) -> str:
    """Units a second, or seconds a unit where those are long."""
    return f"{rate:.0f}/s" if rate >= 1 else f"{1 / max(rate, 1e-9):.0f} s each"


class _Lines:
    """Progress as log lines, for files and pipes."""

    def __init__(self, title: str, total: int, unit: str):
        self.title, self.total, self.unit = title, total, unit
        self.done, self.note = 0, ""
        self.start = self.last = time.monotonic()

    def advance(self, count: int, note: str = "") -> None:
        self.done += count
        self.note = note or self.note
        now = time.monotonic()
        if now - self.last < LINE_SECONDS:
            return
        self.last = now
        rate = self.done / max(now - self.start, 1e-9)
        left = (self.total - self.done) / max(rate, 1e-9)
        done = f"{self.done}/{self.total} {self.unit}, {_speed(rate)}, {left:.0f} s left"
        say(f"{self.title}: {done} {self.note}".rstrip())


class _Bar:
    """Progress as a rich bar, for terminals."""

    def __init__(self, progress: Progress, task: TaskID, unit: str):
        self.progress, self.task, self.unit = progress, task, unit
        self.start, self.done = time.monotonic(), 0

    def advance(self, count: int, note: str = "") -> None:
        self.done += count
        rate = self.done / max(time.monotonic() - self.start, 1e-9)
        self.progress.update(self.task, advance=count, note=f"{self.unit}, {_speed(rate)} {note}")


@contextmanager
def progress_bar(title: str, total: int, unit: str) -> Iterator[_Bar | _Lines]:
    """Show progress over `total` units; the value has advance(count, note="")."""
    if not sys.stderr.isatty() or not is_first():
        yield _Lines(title, total, unit)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield _Bar(progress, progress.add_task(title, total=total, note=""), unit)
