"""What can be said of an entry without loading it. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pass_transfer.errors import StorageError, ZooError
from pass_transfer.files import read_json
from pass_transfer.zoo.catalogue import CONFIG, find_entry, installed_entries


def describe_all() -> list[dict[str, Any]]:
    """One row for each installed entry."""
    return [_row(name, path) for name, path in installed_entries().items()]


def _row(name: str, path: Path) -> dict[str, Any]:
    config = configuration(path)
    size = sum(p.stat().st_size for p in path.iterdir() if p.is_file())
    try:
        return {
            "name": name,
            "architecture": config["backbone"]["architecture"],
            "image_size": config["backbone"]["image_size"],
            "source": config["source"]["task"],
            "megabytes": size / 1e6,
            "path": str(path),
        }
    except (KeyError, TypeError) as error:
        raise ZooError(f"{path / CONFIG} is not that of an entry; it lacks {error}") from error


def configuration(name: str | Path) -> dict[str, Any]:
    """An entry's config.json. Raises ZooError."""
    try:
        return read_json(find_entry(name) / CONFIG)
    except StorageError as error:
        raise ZooError(str(error)) from error


def card(name: str) -> str:
    """An entry's model card, markdown. Raises ZooError."""
    path = find_entry(name) / "README.md"
    if not path.is_file():
        raise ZooError(f"{path} is missing; the entry is incomplete")
    return path.read_text(encoding="utf-8").rstrip()
