"""The cells of a study on disk: one JSON file each, that says under which settings it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping

from pass_transfer.errors import RunError
from pass_transfer.files import read_json
from pass_transfer.study.plan import Cell, Study

FIELDS = {"method", "task", "budget", "seed", "config", "made_with"}


def path_of(study: Study, cell: Cell) -> Path:
    """A cell's file."""
    return study.out / f"{cell.name}.json"


def read_cell(study: Study, cell: Cell, made_with: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
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
    if not isinstance(note, dict) or not FIELDS <= set(note):
        raise RunError(f"{path} is no cell of a study; give the study another `out`, or remove that file")
    config, expected = note["config"], study.identity(cell)
    if config != expected:
        odd = next(name for name in [*expected, *config] if config.get(name) != expected.get(name))
        raise RunError(f"{path} was made with other settings than this study's ({odd} was {config.get(odd)}, now {expected.get(odd)}); "
                       "give the study another `out`, or remove that file")
    if made_with is not None and note["made_with"] != dict(made_with):
        odd = next(name for name in made_with if note["made_with"].get(name) != made_with[name])
        raise RunError(f"{path} was made with another {odd} ({note['made_with'].get(odd)}, now {made_with[odd]}), and one table is to hold what is alike; "
                       "give the study another `out`, or remove that file")
    return note


def is_missing(study: Study, cell: Cell, made_with: Mapping[str, Any] | None = None, retry_failed: bool = False) -> bool:
    """Whether a cell is still to be made; errors as of read_cell."""
    note = read_cell(study, cell, made_with)
    return note is None or (retry_failed and "failed" in note)


def read_cells(study: Study) -> list[dict[str, Any]]:
    """The cells of a study that are there. Raises RunError where there is none, or one of other settings; StorageError for one that is damaged."""
    cells = [note for cell in study.cells() if (note := read_cell(study, cell)) is not None]
    if not cells:
        raise RunError(f"{study.out} holds no cells of this study; make them with pass-transfer study run")
    return cells
