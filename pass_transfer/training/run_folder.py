"""A run's folder: its configuration, metrics, finished phases, and the newest checkpoint.

Every write is atomic, and a checkpoint is two files whose pointer is written last, so a
kill at any moment leaves a folder that --resume continues from. The clock counts the time
of every process that worked on the run, up to its last checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from pass_transfer.errors import RunError, StorageError, UsageError
from pass_transfer.files import (
    PART,
    make_folder,
    read_json,
    read_tensors,
    read_text,
    sha256,
    write_bytes,
    write_json,
    write_tensors,
)

CONFIG = "config.json"
METRICS = "metrics.jsonl"
WORK = "checkpoint"
CLOCK = "clock.json"
LOCK = "lock"  # held by the process that works on the run, and let go by the system when that dies
NOTED = (
    "versions",
    "threads",
    "entry",
    "data_dir",
    "backbone_file",
    "dense_run",
)  # what it ran with, what something was called and where it lay; not compared on --resume


class RunFolder:
    """Open a folder for a run.

    Args:
        path: the folder.
        config: everything that decides the result, with the "recipe"; written to config.json.
        resume: continue what is there; its configuration must be the same. Where nothing is
            there yet, start.
        force: delete what is there and start again. Only a folder that holds a run, or nothing, is deleted.
        started: time.monotonic() at which the work began, if that was before now.

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
    ):
        self.path, self.work = Path(path), Path(path) / WORK
        self.started = time.monotonic() if started is None else started
        config = json.loads(json.dumps(config))  # as it will be read back
        check_free(self.path, resume=resume, force=force)
        self.resumed = resume and _is_run(self.path)
        self.before, self.phases = 0.0, {}
        self._held: FileLock | None = None
        if self.resumed:
            self._continue(config)
        else:
            self._create(config)

    def _create(self, config: dict) -> None:
        if _is_run(self.path):
            if self.work.exists():
                self._lock()
                self._unlock()
            _empty(self.path)
        missing = [p for p in (self.path, *self.path.absolute().parents) if not p.exists()]
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

    def _continue(self, config: dict) -> None:
        old = read_json(self.path / CONFIG)
        changed = sorted(
            k for k in {*old, *config} if old.get(k) != config.get(k) and k not in NOTED
        )
        if changed:
            what = ", ".join(
                f"{k} was {_shown(old.get(k))}, now {_shown(config.get(k))}" for k in changed[:3]
            )
            raise RunError(
                f"{self.path} was started with other settings ({what}); give the same ones, or --force to start again"
            )
        make_folder(self.work)
        self._lock()
        self._remove_parts()
        if (self.work / CLOCK).exists():
            clock = read_json(self.work / CLOCK)
            self.before, self.phases = clock["seconds"], clock["phases"]

    def _lock(self) -> None:
        """Keep other processes away from the run; of several that train together, the first one does."""
        if os.environ.get("RANK", "0") != "0":
            return
        self._held = FileLock(self.work / LOCK, is_singleton=True)
        try:
            self._held.acquire(timeout=0)
        except Timeout as error:
            raise RunError(
                f"another process works on {self.path}; wait until it ends, or choose another --out"
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
        """Time spent on this run by this process and, up to their last checkpoint, by those before it."""
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

    def _write_metrics(self, rows: list[Mapping[str, Any]]) -> None:
        write_bytes(self.path / METRICS, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; a line cut short by a kill is left out."""
        return read_metrics(self.path)

    def keep_metrics(self, stage: str, count: int) -> None:
        """Cut a stage's rows in metrics.jsonl back to the first `count` (those its checkpoint knows of)."""
        rows, seen = [], 0
        for row in self.metrics():
            seen += row["stage"] == stage
            if row["stage"] != stage or seen <= count:
                rows.append(row)
        self._write_metrics(rows)

    def save_checkpoint(self, name: str, state: Mapping[str, Any]) -> None:
        """Write a state (nested dicts and lists of tensors, numbers, strings) under a name; the pointer is written last."""
        tensors: dict[str, torch.Tensor] = {}
        plain = _split(state, tensors)
        folder = self.work
        pointer = folder / f"{name}.json"
        old = read_json(pointer)["tensors"] if pointer.exists() else ""
        fresh = f"{name}.{'b' if old.startswith(f'{name}.a.') else 'a'}.safetensors"
        write_tensors(folder / fresh, tensors)
        write_json(pointer, {"tensors": fresh, "sha256": sha256(folder / fresh), "state": plain})
        self.save_clock()

    def has_checkpoint(self, name: str) -> bool:
        """Whether a state was saved under a name."""
        return (self.work / f"{name}.json").exists()

    def load_checkpoint(self, name: str) -> dict[str, Any] | None:
        """The state last saved under a name, or None. Raises StorageError if it is damaged."""
        pointer = self.work / f"{name}.json"
        if not self.has_checkpoint(name):
            return None
        note = read_json(pointer)
        path = self.work / note["tensors"]
        if sha256(path) != note["sha256"]:
            raise StorageError(
                f"{path} is not what was saved (its sha-256 differs); start again with --force"
            )
        return _join(note["state"], read_tensors(path))

    def drop_checkpoints(self) -> None:
        """Delete all checkpoints, once the run is finished, and let it go."""
        self._unlock()
        shutil.rmtree(self.work, ignore_errors=True)


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, if it has any; a line cut short by a kill is left out. Raises StorageError."""
    path = Path(folder) / METRICS
    rows = []
    for line in read_text(path).splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def check_free(path: str | Path, *, resume: bool = False, force: bool = False) -> None:
    """Refuse a folder that a run may not use, before any work is done for it. Raises RunError."""
    path = Path(path)
    if resume and force:
        raise UsageError(
            "give --resume or --force, not both: one continues the run, the other replaces it"
        )
    if not path.exists() or (path.is_dir() and all(p.name.endswith(PART) for p in path.iterdir())):
        return
    if not _is_run(path):
        raise RunError(f"{path} exists and is not a run folder; choose another --out")
    if not resume and not force:
        raise RunError(
            f"{path} already holds a run; continue it with --resume, replace it with --force, or choose another --out"
        )


def _shown(setting: Any) -> str:
    return "not given" if setting is None else repr(setting)


def _is_run(path: Path) -> bool:
    """Whether a folder's config.json is that of a run; other programs, and zoo entries, have files of that name too."""
    if not (path / CONFIG).is_file():
        return False
    try:
        config = read_json(path / CONFIG)
    except StorageError:
        return False
    return isinstance(config, dict) and "recipe" in config and "schema" not in config


def _empty(path: Path) -> None:
    """Delete a run's files, config.json last: until then it is still known for a run."""
    try:
        for child in sorted(path.iterdir(), key=lambda p: p.name == CONFIG):
            shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
    except OSError as error:
        raise StorageError(f"cannot replace {path}: {error.strerror or error}") from error


def _split(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Replace tensors by numbered references and collect them; dict keys keep their type through a marker."""
    if isinstance(value, torch.Tensor):
        number = str(len(tensors))
        tensors[number] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"__tensor__": number}
    if isinstance(value, Mapping):
        return {"__dict__": [[k, _split(v, tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_split(v, tensors) for v in value]
    return value


def _join(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, dict):
        if "__tensor__" in value:
            return tensors[value["__tensor__"]]
        return {k: _join(v, tensors) for k, v in value["__dict__"]}
    if isinstance(value, list):
        return [_join(v, tensors) for v in value]
    return value
