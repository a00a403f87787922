"""The sha-256 of files' content, remembered with their stamps so that it costs no second read."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from pass_transfer.errors import StorageError
from pass_transfer.files import make_folder, read_json, sha256, write_bytes
from pass_transfer.tasks.cache import HASHES, cache_folder
from pass_transfer.tasks.listing import ImageFile, Stamp

FORMAT = 1
UNREAD = "-"
FEW = 64  # files that are hashed before it is known whether they have to be decoded
SECOND = 1_000_000_000
# A file that was written so shortly before it was read may be written again within the clock's
# step, so that its stamp stays. Two seconds where the clock counts seconds.
FINE_STEP, COARSE_STEP = SECOND // 20, 2 * SECOND


class FileHashes:
    """Hashes of the files below a folder, as they were when each had the stamp it has now.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path):
        self.root = os.path.abspath(root)
        key = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:24]
        self.path = cache_folder() / HASHES / f"{key}.json"
        self.files = self._read()

    def _read(self) -> dict[str, list]:
        """Stamp and hash of each path below the root, or nothing where no whole file is there."""
        try:
            saved = read_json(self.path)
        except StorageError:
            return {}
        if not isinstance(saved, dict) or saved.get("format") != FORMAT:
            return {}
        files = saved.get("files")
        return files if isinstance(files, dict) else {}

    def known(self, files: Sequence[ImageFile], few: int = FEW) -> list[str | None]:
        """The hash of each file, in hexadecimal; UNREAD where it cannot be read.

        A few that are new or changed are read for it: so many, or a tenth. Where there are more,
        they are None.
        """
        found = [self._kept(file) for file in files]
        missing = [position for position, hashed in enumerate(found) if hashed is None]
        if not missing or len(missing) > max(few, len(files) // 10):
            return found
        began = time.time_ns()
        for position in missing:
            found[position] = _hash(files[position].path)
        self.remember(files, found, began)
        return found

    def _kept(self, file: ImageFile) -> str | None:
        kept = self.files.get(_key(file))
        if not isinstance(kept, list) or kept[:-1] != list(file.stamp):
            return None
        return kept[-1]

    def remember(self, files: Sequence[ImageFile], hashes: Sequence[str | None], read: int) -> None:
        """Keep the hash of each file that was read, and only those.

        `read` is the time in nanoseconds before the first was read. A cache that cannot be
        written is no obstacle.
        """
        for file, hashed in zip(files, hashes):
            if hashed not in (None, UNREAD) and settled(file.stamp, read):
                self.files[_key(file)] = [*file.stamp, hashed]
        saved = {"format": FORMAT, "root": self.root, "files": self.files}
        try:
            make_folder(self.path.parent)
            write_bytes(self.path, json.dumps(saved).encode())
        except StorageError:
            return


def _key(file: ImageFile) -> str:
    return file.path.encode(errors="backslashreplace").decode()


def _hash(path: str) -> str:
    try:
        return sha256(path)
    except StorageError:
        return UNREAD


def settled(stamp: Stamp, now: int | None = None) -> bool:
    """Whether a file with this stamp would have another one, were it written again now."""
    now = time.time_ns() if now is None else now
    past = [moment for moment in (stamp.modified, stamp.changed) if moment <= now]
    newest = max(past, default=0)  # a time to come is none that a write now would leave
    step = COARSE_STEP if newest % SECOND == 0 else FINE_STEP
    return newest + step < now
