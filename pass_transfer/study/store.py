"""The cells of a study on disk: one JSON file each, with the settings it was made under."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pass_transfer.errors import RunError
from pass_transfer.files import read_json
from pass_transfer.scoring.registry import modern_settings
from pass_transfer.study.plan import Cell, Study

FIELDS = {"method", "task", "budget", "seed", "seconds", "config", "made_with"}
RESULTS = {
    "macs_share",
    "top1",
    "held_out_top1",
    "held_out_top1_before",
    "search_seconds",
    "kept",
    "channels",
    "masks",
}  # of a cell that did not fail
REMEDY = "choose another folder for the cells (the study's `out`), or remove that file"
ABSENT = "not given"
IMAGES = "set of images"  # among what a cell was made with


def path_of(study: Study, cell: Cell) -> Path:
    """A cell's file."""
    return study.out / f"{cell.name}.json"


def read_cell(
    study: Study, cell: Cell, made_with: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """A cell's content; None where it is not there.

    Args:
        made_with: what it has to be made with (run.made_with), if that matters. Of what an
            earlier version did not write down, nothing is asked.

    Raises:
        RunError: one that was made with other settings.
        StorageError: one that is damaged.
    """
    path = path_of(study, cell)
    if not path.exists():
        return None
    note = read_json(path)
    if not _is_cell(note):
        raise RunError(f"{path} is no cell of a study; {REMEDY}")
    odd = _difference(_modern(note["config"]), study.identity(cell))
    if odd:
        name, then, now = odd
        changed = f"{name} was {then}, now {now}"
        raise RunError(
            f"{path} was made with other settings than this study's ({changed}); {REMEDY}"
        )
    odd = None if made_with is None else _difference(_known(note, made_with), made_with)
    if odd:
        name, then, now = odd
        raise RunError(
            f"{path} was made with another {name} ({then}, now {now}), and one table is to hold "
            f"what is alike; {REMEDY}"
        )
    return note


def _known(note: Mapping[str, Any], made_with: Mapping[str, Any]) -> dict[str, Any]:
    """What a cell was made with, with what it did not write down as it should be.

    Its images count where those of today are known.
    """
    known = {**made_with, **note["made_with"]}
    if IMAGES not in made_with:
        known.pop(IMAGES, None)
    return known


def _is_cell(note: Any) -> bool:
    """Whether a JSON value is a cell, finished or failed."""
    if not isinstance(note, dict) or not FIELDS <= set(note):
        return False
    if "failed" not in note and not RESULTS <= set(note):
        return False
    return isinstance(note["config"], dict) and isinstance(note["made_with"], dict)


def _modern(config: Mapping[str, Any]) -> dict[str, Any]:
    """A cell's settings under today's names, where version 0.1 wrote them."""
    found = {"round_to": 1, **config}
    if isinstance(config.get("settings"), dict) and "method" in config["settings"]:
        found["settings"] = modern_settings(config["settings"])
    return found


def _difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first setting that is not the same: its name and both values."""
    for name in [*now, *then]:
        before, after = then.get(name, ABSENT), now.get(name, ABSENT)
        if before != after:
            return name, before, after
    return None


def is_missing(
    study: Study, cell: Cell, made_with: Mapping[str, Any] | None = None, retry_failed: bool = False
) -> bool:
    """Whether a cell is still to be made; errors as of read_cell."""
    note = read_cell(study, cell, made_with)
    return note is None or (retry_failed and "failed" in note)


def read_cells(study: Study) -> list[dict[str, Any]]:
    """The cells of a study that are there.

    Raises RunError where there is none, or one of other settings; StorageError for one that
    is damaged.
    """
    notes = [read_cell(study, cell) for cell in study.cells()]
    cells = [note for note in notes if note is not None]
    if not cells:
        raise RunError(f"{study.out} holds no cells of this study; run the study first")
    return cells
