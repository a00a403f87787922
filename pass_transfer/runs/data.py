"""Which images a run was made from: kept in its folder, and compared when it is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pass_transfer.errors import RunError, StorageError
from pass_transfer.files import read_object
from pass_transfer.runs.files import FINGERPRINTS
from pass_transfer.tasks import Task
from pass_transfer.tasks.record import DATA, difference, read_data
from pass_transfer.training.run_folder import CONFIG


def check_data(run: str | Path, task: Task) -> None:
    """Refuse to resume a run with other images than it was begun with.

    Data that was moved or copied is the same. A run of a version that kept no fingerprint is
    compared by its task's name.

    Raises:
        RunError: other images; every split that differs is named, with counts.
        StorageError: a damaged file.
    """
    run = Path(run)
    if not (run / CONFIG).is_file():
        return
    config = read_object(run / CONFIG)
    if "data" in config and not FINGERPRINTS.fits(config["data"]):
        raise StorageError(f"{run / CONFIG} is not that of a run: data is not {FINGERPRINTS.words}")
    if "data" not in config:
        if config.get("task", task.name) != task.name:
            raise RunError(_refusal(run, f"the task was {config['task']!r}, now {task.name!r}"))
        return
    if config["data"] == task.record.fingerprints():
        return
    known = read_data(run)
    changes = difference(known, task.record) if known else [_by_count(config["data"], task)]
    raise RunError(_refusal(run, "; ".join(changes) or "their classes in another order"))


def keep_data(run: Path, task: Task) -> None:
    """Write which images a run is made from, once. Raises StorageError."""
    if not (run / DATA).exists():
        task.record.save(run)


def _refusal(run: Path, what: str) -> str:
    return f"{run} was begun with other images ({what}); put them back, or start again (force)"


def _by_count(then: Mapping[str, Any], task: Task) -> str:
    now = task.record.fingerprints()
    counts = [{split: one["images"] for split, one in some.items()} for some in (now, then)]
    return f"images by split now {counts[0]}, then {counts[1]}"
