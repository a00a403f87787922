"""The verb push: a run's small network to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pass_transfer.arguments import check_path
from pass_transfer.hub import check_repository
from pass_transfer.pruned import load_pruned
from pass_transfer.pruned.share import push_folder
from pass_transfer.runs.files import RESULT, read_result
from pass_transfer.surroundings import as_guest


@as_guest
def push(
    run: str | Path, repository: str, *, private: bool = False, license: str | None = None
) -> dict[str, Any]:
    """Put a run's small network on the Hugging Face hub, with its figures in the card.

    Args:
        run: a run folder of adapt, or what PrunedModel.save wrote.
        repository, private, license: see PrunedModel.push_to_hub, as what is returned.

    Raises:
        RunError, StorageError: see load_pruned.
        UsageError, HubError: see PrunedModel.push_to_hub.
    """
    check_path("run", run)
    repository = check_repository(repository)
    folder = Path(run)
    model = load_pruned(folder)
    result = read_result(folder) if (folder / RESULT).is_file() else None
    return push_folder(folder, model, repository, private=private, license=license, result=result)
