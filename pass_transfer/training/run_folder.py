"""A run's folder: its configuration, metrics, finished phases, and the newest checkpoint.

Every write is atomic, and a checkpoint is two files whose pointer is written last, so a
kill at any moment leaves a folder that --resume continues from.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Mapping

import torch

from pass_transfer.errors import RunError, StorageError
from pass_transfer.files import make_folder, read_json, read_tensors, sha256, write_json, write_tensors

CONFIG = "config.json"
METRICS = "metrics.jsonl"
WORK = "checkpoint"


class RunFolder:
    """Open a folder for a run.

    Args:
        path: the folder.
        config: everything that decides the result; written to config.json.
        resume: continue what is there; its configuration must be the same.
        force: delete what is there and start again. Only a folder that holds a run, or nothing, is deleted.

    Raises:
        RunError: the folder exists (without resume or force), is no run, or has another configuration.
        StorageError: it cannot be written.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any], *, resume: bool = False, force: bool = False):
        self.path = Path(path)
        self.resumed = False
        config = json.loads(json.dumps(config))  # as it will be read back
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            if not (self.path / CONFIG).is_file():
                raise RunError(f"{self.path} exists and is not a run folder; choose another --out")
            if resume:
                self._check_same(config)
                self.resumed = True
            elif force:
                self._delete()
            else:
                raise RunError(f"{self.path} already holds a run; continue it with --resume, replace it with --force, or choose another --out")
        make_folder(self.path / WORK)
        if not self.resumed:
            write_json(self.path / CONFIG, config)

    def _check_same(self, config: dict) -> None:
        old = read_json(self.path / CONFIG)
        changed = sorted(k for k in {*old, *config} if old.get(k) != config.get(k) and k != "versions")
        if changed:
            what = ", ".join(f"{k} was {old.get(k)!r}, now {config.get(k)!r}" for k in changed[:3])
            raise RunError(f"{self.path} was started with other settings ({what}); give the same ones, or --force to start again")

    def _delete(self) -> None:
        try:
            shutil.rmtree(self.path)
        except OSError as error:
            raise StorageError(f"cannot replace {self.path}: {error.strerror or error}") from error

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row to metrics.jsonl."""
        try:
            with open(self.path / METRICS, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise StorageError(f"cannot write {self.path / METRICS}: {error.strerror or error}") from error

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; a line cut short by a kill is left out."""
        path = self.path / METRICS
        if not path.exists():
            return []
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows

    def keep_metrics(self, count: int) -> None:
        """Cut metrics.jsonl back to its first `count` rows (those the checkpoint knows of)."""
        from pass_transfer.files import write_bytes

        rows = self.metrics()[:count]
        write_bytes(self.path / METRICS, "".join(json.dumps(r) + "\n" for r in rows).encode())

    def save_checkpoint(self, name: str, state: Mapping[str, Any]) -> None:
        """Write a state (nested dicts and lists of tensors, numbers, strings) under a name; the pointer is written last."""
        tensors: dict[str, torch.Tensor] = {}
        plain = _split(state, "", tensors)
        folder = self.path / WORK
        pointer = folder / f"{name}.json"
        old = read_json(pointer)["tensors"] if pointer.exists() else ""
        fresh = f"{name}.{'b' if old.startswith(f'{name}.a.') else 'a'}.safetensors"
        write_tensors(folder / fresh, tensors)
        write_json(pointer, {"tensors": fresh, "sha256": sha256(folder / fresh), "state": plain})

    def load_checkpoint(self, name: str) -> dict[str, Any] | None:
        """The state last saved under a name, or None. Raises StorageError if it is damaged."""
        pointer = self.path / WORK / f"{name}.json"
        if not pointer.exists():
            return None
        note = read_json(pointer)
        path = self.path / WORK / note["tensors"]
        if sha256(path) != note["sha256"]:
            raise StorageError(f"{path} is not what was saved (its sha-256 differs); start again with --force")
        return _join(note["state"], read_tensors(path))

    def drop_checkpoint(self, name: str) -> None:
        """Forget a checkpoint that is no longer needed."""
        for path in (self.path / WORK).glob(f"{name}.*"):
            path.unlink(missing_ok=True)

    def drop_checkpoints(self) -> None:
        """Delete all checkpoints, once the run is finished."""
        shutil.rmtree(self.path / WORK, ignore_errors=True)


def _split(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Replace tensors by references and collect them; dict keys keep their type through a marker."""
    if isinstance(value, torch.Tensor):
        tensors[path] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"__tensor__": path}
    if isinstance(value, Mapping):
        return {"__dict__": [[k, _split(v, f"{path}/{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_split(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]
    return value


def _join(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, dict):
        if "__tensor__" in value:
            return tensors[value["__tensor__"]]
        return {k: _join(v, tensors) for k, v in value["__dict__"]}
    if isinstance(value, list):
        return [_join(v, tensors) for v in value]
    return value
