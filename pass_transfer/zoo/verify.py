"""The manifest: the sha-256 of every file of an entry, checked before any is used.

Imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pass_transfer.errors import StorageError, UsageError, ZooError
from pass_transfer.files import make_folder, read_object, sha256, write_bytes, write_json
from pass_transfer.settings import TEXT, check_fields, named

MANIFEST = "manifest.json"
CARD = "README.md"
FILES = (
    "README.md",
    "backbone.safetensors",
    "config.json",
    "hypernet.safetensors",
    "masks.safetensors",
    "prompt.safetensors",
)


def write_manifest(folder: Path) -> None:
    """Record the sha-256 of every file of an entry."""
    write_json(folder / MANIFEST, {"files": {name: sha256(folder / name) for name in FILES}})


def manifest_with(digests: Mapping[str, str], card: bytes) -> dict[str, Any]:
    """The manifest of an entry with these files, but for its model card."""
    return {"files": {**digests, CARD: hashlib.sha256(card).hexdigest()}}


def check_free(destination: Path) -> None:
    """Raises ZooError where something is there already."""
    if destination.exists():
        raise ZooError(f"{destination} exists already; remove it first, or choose another name")


def verify_files(folder: Path) -> dict[str, str]:
    """Check every file of an entry against its manifest; returns name to sha-256.

    Raises:
        ZooError: no manifest, a missing, extra or altered file.
    """
    try:
        manifest = read_object(folder / MANIFEST)
        check_fields(manifest, {"files": named(TEXT)})
        expected = manifest["files"]
    except (StorageError, UsageError) as error:
        raise ZooError(
            f"{folder}: no readable {MANIFEST} ({error}); the entry is incomplete"
        ) from error
    if set(expected) != set(FILES):
        odd = sorted(set(expected) ^ set(FILES))
        raise ZooError(f"{folder / MANIFEST} lists other files than an entry has: {', '.join(odd)}")
    present = {p.name for p in folder.iterdir() if not p.name.startswith(".")} - {
        MANIFEST
    }  # the hub's client adds hidden files
    if present != set(FILES):
        odd = sorted(present ^ set(FILES))
        what = "is missing" if odd[0] not in present else "does not belong to the entry"
        raise ZooError(f"{folder / odd[0]} {what}")
    for name in FILES:
        actual = sha256(folder / name)
        if actual != expected[name]:
            said = str(expected[name])[:12]
            raise ZooError(
                f"{folder / name} was altered or is damaged: its sha-256 is {actual[:12]}..., the "
                f"manifest says {said}..."
            )
    return expected


def add_entry(folder: Path, destination: Path, card: str) -> None:
    """Copy a verified entry to a new folder with another model card, and write its manifest.

    Raises:
        ZooError: the entry is damaged, or the destination exists.
    """
    verify_files(folder)
    check_free(destination)
    make_folder(destination)
    for name in FILES:
        write_bytes(
            destination / name, card.encode() if name == CARD else (folder / name).read_bytes()
        )
    write_manifest(destination)
