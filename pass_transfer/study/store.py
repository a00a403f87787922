"""The cells of a study on disk: one JSON file each, that says under which settings it was made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pass_transfer.errors import RunError
from pass_transfer.files import read_json
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
REMEDY = (
    "choose another folder for the cells with --cells or the study's `out`, or remove that file"
)


def path_of(study: Study, cell: Cell) -> Path:
    """A cell's file."""
    return study.out / f"{cell.name}.json"


def read_cell(
    study: Study, cell: Cell, made_with: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """A cell's content; None where it is not there.

    Args:
        made_with: entry, device and precision that it has to be made with, if that matters.

    Raises:
        RunError: one that was made with other settings.
        StorageError: one that is damaged.
    """
    path = path_of(study, cell)
    if not path.exists():
        return None
    note = read_json(path)
    if (
        not isinstance(note, dict)
        or not FIELDS <= set(note)
        or not ("failed" in note or RESULTS <= set(note))
        or not all(isinstance(note[name], dict) for name in ("config", "made_with"))
    ):
        raise RunError(f"{path} is no cell of a study; {REMEDY}")
    odd = _difference(note["config"], study.identity(cell))
    if odd:
        raise RunError(
            f"{path} was made with other settings than this study's ({odd[0]} was {odd[1]}, now {odd[2]}); {REMEDY}"
        )
    odd = None if made_with is None else _difference(note["made_with"], made_with)
    if odd:
        raise RunError(
            f"{path} was made with another {odd[0]} ({odd[1]}, now {odd[2]}), and one table is to hold what is alike; {REMEDY}"
        )
    return note


def _difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first setting that is not the same: its name and both values."""
    absent = "not given"
    return next(
        (
            (name, then.get(name, absent), now.get(name, absent))
            for name in [*now, *then]
            if then.get(name, absent) != now.get(name, absent)
        ),
        None,
    )


def is_missing(
    study: Study, cell: Cell, made_with: Mapping[str, Any] | None = None, retry_failed: bool = False
) -> bool:
    """Whether a cell is still to be made; errors as of read_cell."""
    note = read_cell(study, cell, made_with)
    return note is None or (retry_failed and "failed" in note)


def read_cells(study: Study) -> list[dict[str, Any]]:
    """The cells of a study that are there. Raises RunError where there is none, or one of other settings; StorageError for one that is damaged."""
    cells = [note for cell in study.cells() if (note := read_cell(study, cell)) is not None]
    if not cells:
        raise RunError(
            f"{study.out} holds no cells of this study; make them with pass-transfer study run"
        )
    return cells
