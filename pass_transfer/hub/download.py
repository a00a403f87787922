"""Folders from the Hugging Face hub, "hf-hub:owner/name"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pass_transfer.errors import PassTransferError
from pass_transfer.hub.names import HUB_PREFIX, split
from pass_transfer.hub.words import quiet, reason


def download(
    name: str, refusal: type[PassTransferError], files: Sequence[str] | None = None
) -> Path:
    """A repository's folder in the hub's cache, downloaded where it is not there yet.

    Where the hub cannot be reached, or with HF_HUB_OFFLINE=1, what is in the cache is taken.

    Args:
        name: with the prefix, and perhaps with @revision behind it.
        refusal: the kind of error to raise.
        files: the files that are wanted; None for all.

    Raises:
        PassTransferError: of the kind `refusal`, where the repository cannot be had.
    """
    from huggingface_hub import snapshot_download

    repository, revision = split(name)
    wanted = None if files is None else list(files)
    try:
        with quiet():
            return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except Exception as error:  # the hub client raises many kinds
        raise refusal(f"cannot get {name}: {reason(error)}") from error


@contextmanager
def dropped_if_damaged(name: str | Path, folder: Path) -> Iterator[None]:
    """Drop a folder from the hub's cache where what checks it raises an error of ours.

    Otherwise a file that came damaged would be taken from the cache for ever. A `name` that is
    not the hub's leaves its folder alone.
    """
    try:
        yield
    except PassTransferError:
        if str(name).startswith(HUB_PREFIX):
            _drop(folder)
        raise


def _drop(snapshot: Path) -> None:
    """Remove a snapshot's files, and the content that they link to."""
    for path in snapshot.rglob("*"):
        if path.is_file():
            path.resolve().unlink()
            path.unlink(missing_ok=True)
