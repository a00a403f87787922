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
        refusal: what to raise where it cannot be had.
        files: the files that are wanted; all without it.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name.removeprefix(HUB_PREFIX), allow_patterns=None if files is None else list(files)
            )
        )
    except Exception as error:  # the hub client raises many kinds
        raise refusal(
            f"cannot get {name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error
