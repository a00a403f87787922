"""Folders from the Hugging Face hub, "hf-hub:owner/name"."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pass_transfer.errors import PassTransferError

HUB_PREFIX = "hf-hub:"


def download(
    name: str, refusal: type[PassTransferError], files: Sequence[str] | None = None
) -> Path:
    """A repository's folder in the hub's cache, downloaded where it is not there yet.

    Args:
        name: with the prefix.
        refusal: the kind of error to raise.
        files: the files that are wanted; None for all.

    Raises:
        PassTransferError: of the kind `refusal`, where the repository cannot be had.
    """
    from huggingface_hub import snapshot_download

    repository = name.removeprefix(HUB_PREFIX)
    wanted = None if files is None else list(files)
    try:
        return Path(snapshot_download(repository, allow_patterns=wanted))
    except Exception as error:  # the hub client raises many kinds
        raise refusal(f"cannot get {name}: {in_words(error)}") from error


def in_words(error: Exception) -> str:
    """An exception's kind and the first line of what it says."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
