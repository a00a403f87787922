"""A run's folder: its configuration, metrics, finished phases, and the newest checkpoint.

Every write is atomic, so a kill at any moment leaves a folder that can be resumed. The
clock counts the time of every process that worked on the run, up to its last checkpoint.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pass_transfer.arguments import check_path
from pass_transfer.errors import RunError, StorageError, UsageError
from pass_transfer.files import (
    PART,
    make_folder,
    read_object,
    read_text,
    write_bytes,
    write_json,
)
from pass_transfer.first_process import is_first
from pass_transfer.settings import TEXT, Kind, check_fields, named, number, shown, whole
from pass_transfer.training.checkpoints import has_state, load_state, save_state

CONFIG = "config.json"
METRICS = "metrics.jsonl"
WORK = "checkpoint"
CLOCK = "clock.json"
LOCK = "lock"  # held by the process that works on the run, and let go by the system when that dies
# What it ran with, what something was called, and where it lay: not compared when it is resumed.
# The images are, in words of their own (runs/data.py), whatever their task is called.
NOTED = (
    *("versions", "threads", "entry", "task", "data"),
    *("data_dir", "backbone_file", "dense_run", "from_run", "weights_given"),
)
LARGEST = 1e30  # of a metric


def _is_metric(value: object) -> bool:
    """Whether a value is a number of today's size, or what a float has in place of one."""
    odd = isinstance(value, float) and not math.isfinite(value)
    return odd or number(-LARGEST, LARGEST).fits(value)


METRIC = Kind("a number", _is_metric)


class RunFolder:
    """Open a folder for a run.

    Args:
        path: the folder.
        config: everything that decides the result, with the "recipe"; written to config.json.
        resume: continue what is there; its configuration must be the same. Where nothing is
            there yet, start.
        force: delete what is there and start again. Only a folder that holds a run, or
            nothing, is deleted.
        started: time.monotonic() at which the work began, if that was before now.
        upgrade: brings an earlier version's configuration to today's form.

    Raises:
        RunError: the folder exists (without resume or force), is no run, has another
            configuration, or another process works on it.
        StorageError: it cannot be written; nothing is left behind then.
    """

    def __init__(
        self,
        path: str | Path,
        config: Mapping[str, Any],
        *,
        resume: bool = False,
        force: bool = False,
        started: float | None = None,
        upgrade: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ):
        self.path, self.work = Path(path), Path(path) / WORK
        self.started = time.monotonic() if started is None else started
        check_free(self.path, resume=resume, force=force)
        self.resumed = resume and _is_run(self.path)
        self.before = 0.0  # seconds of the processes before this one
        self.phases: dict[str, float] = {}
        self._held: FileLock | None = None
        settings = json.loads(json.dumps(config))  # as they will be read back
        if self.resumed:
            self._check_settings(self._saved_config(upgrade), settings)
            self._continue()
        else:
            self._create(settings)

    def _saved_config(
        self, upgrade: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        path = self.path / CONFIG
        try:
            return upgrade(read_object(path))
        except UsageError as error:
            raise StorageError(f"{path} is not that of a run: {error}") from error

    def _create(self, config: dict[str, Any]) -> None:
        if _is_run(self.path):
            if self.work.exists():
                self._lock()
                self._unlock()
            _empty(self.path)
        above = (self.path, *self.path.absolute().parents)
        missing = [folder for folder in above if not folder.exists()]
        try:
            make_folder(self.path)
            self._remove_parts()
            write_json(self.path / CONFIG, config)
            make_folder(self.work)
            self._lock()
        except BaseException:
            if missing:
                shutil.rmtree(missing[-1], ignore_errors=True)
            raise

    def _continue(self) -> None:
        make_folder(self.work)
        self._lock()
        self._remove_parts()
        if (self.work / CLOCK).exists():
            clock = read_object(self.work / CLOCK)
            try:
                check_fields(clock, {"seconds": number(0), "phases": named(number(0))})
            except UsageError as error:
                raise StorageError(f"{self.work / CLOCK} is damaged: {error}") from error
            self.before, self.phases = clock["seconds"], clock["phases"]

    def _check_settings(self, old: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        compared = sorted({*old, *config} - set(NOTED))
        changed = [name for name in compared if old.get(name) != config.get(name)]
        if not changed:
            return
        what = ", ".join(
            f"{name} was {_shown(old.get(name))}, now {_shown(config.get(name))}"
            for name in changed[:3]
        )
        raise RunError(
            f"{self.path} was started with other settings ({what}); "
            "give the same ones, or start again (force)"
        )

    def _lock(self) -> None:
        """Keep other processes away from the run.

        Of several processes that train together, the first one does this for all.
        """
        if not is_first():
            return
        self._held = FileLock(self.work / LOCK, is_singleton=True)
        try:
            self._held.acquire(timeout=0)
        except Timeout as error:
            raise RunError(
                f"another process works on {self.path}; "
                "wait until it ends, or choose another folder"
            ) from error
        except OSError as error:
            raise StorageError(
                f"cannot write {self.work / LOCK}: {error.strerror or error}"
            ) from error

    def _unlock(self) -> None:
        if self._held is not None:
            self._held.release(force=True)

    def _remove_parts(self) -> None:
        for part in self.path.rglob(f".*{PART}"):
            part.unlink(missing_ok=True)

    @property
    def seconds(self) -> float:
        """Time spent on this run by this process, and by those before it.

        Of those before, the time up to their last checkpoint counts.
        """
        return self.before + time.monotonic() - self.started

    def begin(self, phase: str) -> float:
        """The run's seconds at which a phase began, also when it began in an earlier process."""
        return self.phases.setdefault(phase, self.seconds)

    def save_clock(self) -> None:
        """Remember the time spent so far."""
        write_json(self.work / CLOCK, {"seconds": self.seconds, "phases": self.phases})

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row to metrics.jsonl."""
        self._write_metrics([*self.metrics(), row])

    def _write_metrics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        lines = [json.dumps(row) + "\n" for row in rows]
        write_bytes(self.path / METRICS, "".join(lines).encode())

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; a line cut short by a kill is left out."""
        return read_metrics(self.path)

    def keep_metrics(self, stage: str, count: int) -> None:
        """Cut a stage's rows in metrics.jsonl back to the first `count`, its checkpoint's."""
        kept, seen = [], 0
        for row in self.metrics():
            if row["stage"] == stage:
                seen += 1
                if seen > count:
                    continue
            kept.append(row)
        self._write_metrics(kept)

    def save_checkpoint(self, name: str, state: Mapping[str, Any]) -> None:
        """Save a state under a name: nested dicts and lists of tensors, numbers, strings."""
        save_state(self.work, name, state)
        self.save_clock()

    def has_checkpoint(self, name: str) -> bool:
        """Whether a state was saved under a name."""
        return has_state(self.work, name)

    def load_checkpoint(self, name: str) -> dict[str, Any] | None:
        """The state last saved under a name, or None. Raises StorageError if it is damaged."""
        return load_state(self.work, name)

    def drop_checkpoints(self) -> None:
        """Delete all checkpoints, once the run is finished, and let it go."""
        self._unlock()
        shutil.rmtree(self.work, ignore_errors=True)


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, if it has any.

    A line that was cut short by a kill is left out.

    Raises StorageError for a line that is no row of metrics; it is named.
    """
    path = Path(folder) / METRICS
    if not path.exists():
        return []
    rows = []
    for place, line in enumerate(read_text(path).splitlines(), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        try:
            check_fields(row, {"stage": TEXT, "epoch": whole()})
            check_fields(row, {"stage": TEXT}, dict.fromkeys(row, METRIC))
        except UsageError as error:
            raise StorageError(f"{path}, line {place}: {error}") from error
        rows.append(row)
    return rows


def check_free(path: str | Path, *, resume: bool = False, force: bool = False) -> None:
    """Refuse a folder that a run may not use, before any work is done for it. Raises RunError.

    Of several processes the first one asks; to the others it may be there already.
    """
    check_path("out", path)
    if not is_first():
        return
    path = Path(path)
    if resume and force:
        raise UsageError(
            "give resume=True or force=True, not both: one continues the run, the other replaces it"
        )
    if not path.exists() or _holds_nothing(path):
        return
    if not _is_run(path):
        raise RunError(f"{path} exists and is not a run folder; choose another folder")
    if not resume and not force:
        raise RunError(
            f"{path} already holds a run; "
            "continue it (resume), replace it (force), or choose another folder"
        )


def _holds_nothing(path: Path) -> bool:
    """Whether a folder is empty, but for what a kill left of a file."""
    return path.is_dir() and all(child.name.endswith(PART) for child in path.iterdir())


def _shown(setting: Any) -> str:
    return "not given" if setting is None else shown(setting)


def _is_run(path: Path) -> bool:
    """Whether a folder's config.json is that of a run.

    Other programs, and zoo entries, have files of that name, too.
    """
    if not (path / CONFIG).is_file():
        return False
    try:
        config = read_object(path / CONFIG)
    except StorageError:
        return False
    return "recipe" in config and "schema" not in config


def _empty(path: Path) -> None:
    """Delete a run's files, config.json last: until then it is still known for a run."""
    try:
        for child in sorted(path.iterdir(), key=lambda child: child.name == CONFIG):
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            else:
                child.unlink()
    except OSError as error:
        raise StorageError(f"cannot replace {path}: {error.strerror or error}") from error
