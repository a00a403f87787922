"""What can be said of an entry without loading it. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pass_transfer.errors import ZooError
from pass_transfer.hub.card import without_metadata
from pass_transfer.zoo.catalogue import find_entry, installed_entries
from pass_transfer.zoo.config import read_config


def describe_all() -> list[dict[str, Any]]:
    """One row for each installed entry."""
    return [_row(name, path) for name, path in installed_entries().items()]


def _row(name: str, path: Path) -> dict[str, Any]:
    config = configuration(path)
    size = sum(p.stat().st_size for p in path.iterdir() if p.is_file())
    return {
        "name": name,
        "architecture": config["backbone"]["architecture"],
        "image_size": config["backbone"]["image_size"],
        "source": config["source"]["task"],
        "megabytes": size / 1e6,
        "path": str(path),
    }


def configuration(name: str | Path) -> dict[str, Any]:
    """An entry's config.json. Raises ZooError."""
    return read_config(find_entry(name))


def card(name: str) -> str:
    """An entry's model card, markdown, without the hub's metadata. Raises ZooError."""
    path = find_entry(name) / "README.md"
    if not path.is_file():
        raise ZooError(f"{path} is missing; the entry is incomplete")
    return without_metadata(path.read_text(encoding="utf-8")).rstrip()
