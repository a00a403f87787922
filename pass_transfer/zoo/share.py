"""Entries to the Hugging Face hub and from it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pass_transfer.errors import ZooError
from pass_transfer.files import json_bytes, make_folder, os_errors, read_text
from pass_transfer.hub import HUB_PREFIX, check_repository, download, dropped_if_damaged, pinned
from pass_transfer.hub.card import ACCURACY, ModelFacts, with_metadata
from pass_transfer.hub.upload import upload
from pass_transfer.settings import number
from pass_transfer.tasks.public_name import public_name
from pass_transfer.zoo.catalogue import find_entry
from pass_transfer.zoo.config import read_config
from pass_transfer.zoo.verify import (
    CARD,
    FILES,
    MANIFEST,
    add_entry,
    check_free,
    manifest_with,
    verify_files,
)

PERCENT = number(0, 100)


def push_entry(
    name: str | Path, repository: str, *, private: bool = False, license: str | None = None
) -> dict[str, Any]:
    """Put an entry on the hub, with a card that has the hub's metadata.

    Args:
        name: as load_hypernet takes it.
        repository, private: see hub.upload.upload, as what is returned.
        license: of the weights, as the hub names it; None for the one that the card has.

    Raises:
        ZooError: no whole entry.
        UsageError, HubError: see hub.upload.upload.
    """
    repository = check_repository(repository)
    folder = find_entry(name)
    digests = verify_files(folder)
    facts = _facts(read_config(folder), repository, license)
    card = with_metadata(read_text(folder / CARD), facts).encode()
    files: dict[str, Path | bytes] = {file: folder / file for file in FILES}
    files |= {CARD: card, MANIFEST: json_bytes(manifest_with(digests, card))}
    return upload(repository, files, private=private)


def _facts(config: Mapping[str, Any], repository: str, license: str | None) -> ModelFacts:
    source = config["source"]
    task, dataset = public_name(source["task"])
    measured = {title: source.get(name) for name, title in ACCURACY.items()}
    return ModelFacts(
        name=repository.split("/")[1],
        architecture=config["backbone"]["architecture"],
        license=license,
        task=task,
        dataset=dataset,
        accuracy={title: top for title, top in measured.items() if PERCENT.fits(top)},
    )


def pull_entry(
    repository: str, *, revision: str | None = None, to: str | Path | None = None
) -> dict[str, Any]:
    """Fetch an entry from the hub into the hub's cache, where it serves without a network.

    Args:
        repository: "owner/name".
        revision: a branch, a tag or a commit; the newest by default.
        to: a new folder for a copy.

    Returns:
        "entry" (what load_hypernet takes), "folder", and "files": name to sha-256.

    Raises:
        UsageError: what can be no repository's name.
        ZooError: nothing there, no whole entry, or `to` exists. Nothing is left of it then.
        StorageError: `to` cannot be written.
    """
    name = str(pinned(HUB_PREFIX + check_repository(repository), revision))
    if to is not None:
        check_free(Path(to))
    folder = download(name, ZooError)
    with dropped_if_damaged(name, folder):
        digests = verify_files(folder)
    read_config(folder)
    if to is not None:
        _copy(folder, Path(to))
        name, folder = str(to), Path(to)
    return {"entry": name, "folder": str(folder), "files": digests}


def _copy(folder: Path, to: Path) -> None:
    """Copy an entry to a new folder: all of it, or nothing."""
    parent = make_folder(to.absolute().parent)
    with os_errors(f"cannot write {to}", to), tempfile.TemporaryDirectory(dir=parent) as aside:
        whole = Path(aside) / to.name
        add_entry(folder, whole, read_text(folder / CARD))
        os.rename(whole, to)
