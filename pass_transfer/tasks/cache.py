"""The cache: decoded images, the hashes of files, and what the datasets library unpacks.

Everything in it can be made again. It is $PASS_TRANSFER_CACHE, or pass-transfer in the user's
cache folder. Decoded images are named by their content, so moved or copied data finds them; what
was used least recently goes when they take more than $PASS_TRANSFER_CACHE_SIZE (20G).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pass_transfer.errors import StorageError, UsageError
from pass_transfer.files import PART, make_folder, read_json

DECODED = "decoded"
NOTE = "note.json"
HASHES = "hashes"
UNPACKED = "unpacked-tables"  # by the datasets library
KEY = re.compile("[0-9a-f]{24}")  # what our files and folders are called, whatever lies beside them
OLD_SECONDS = 24 * 3600  # after which a folder that a kill left half-written goes
SIZE_VARIABLE = "PASS_TRANSFER_CACHE_SIZE"
DEFAULT_SIZE = 20 << 30  # bytes: two of the largest tasks that are kept decoded
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@dataclass(frozen=True)
class CacheEntry:
    """Something kept: what it is, its path, bytes on the disk, and when it was last used.

    `used` is in seconds since the epoch; `image_size` is that of decoded images, in pixels.
    """

    title: str
    path: Path
    bytes: int
    used: float
    image_size: int | None = None


def cache_folder() -> Path:
    """Where decoded tasks are kept.

    It is $PASS_TRANSFER_CACHE, or pass-transfer in the user's cache folder.
    """
    chosen = os.environ.get("PASS_TRANSFER_CACHE")
    if chosen:
        return Path(chosen)
    user_cache = os.environ.get("XDG_CACHE_HOME")
    if user_cache:
        return Path(user_cache) / "pass-transfer"
    try:
        return Path.home() / ".cache" / "pass-transfer"
    except RuntimeError:  # this user has no home
        return Path(tempfile.gettempdir()) / f"pass-transfer-{os.getuid()}"


def cache_limit() -> int:
    """Bytes that decoded images may take. Raises UsageError for a size that cannot be read."""
    given = os.environ.get(SIZE_VARIABLE, "").strip().lower().removesuffix("b")
    if not given:
        return DEFAULT_SIZE
    number, unit = (given[:-1], given[-1]) if given[-1] in UNITS else (given, "")
    try:
        size = float(number) * UNITS[unit]
    except ValueError:
        size = -1.0
    if not 0 <= size < float("inf"):
        raise UsageError(
            f"{SIZE_VARIABLE} is {os.environ[SIZE_VARIABLE]!r}; give bytes, or such as 500M or 20G"
        )
    return int(size)


def decoded_folder(key: str) -> Path:
    """Where the decoded images of a content are kept, if they are."""
    return cache_folder() / DECODED / key


def touch(folder: Path) -> None:
    """Note that decoded images were used just now."""
    with contextlib.suppress(OSError):
        os.utime(folder / NOTE)


def keep_decoded(key: str, write: Callable[[Path], None]) -> Path | None:
    """Keep what `write` puts into the folder that it is given, whole or not at all.

    Returns the folder; None where the cache cannot be written or has no room. Others make room,
    the least recently used first.
    """
    target = decoded_folder(key)
    try:
        make_folder(target.parent)
        aside = Path(tempfile.mkdtemp(prefix=f".{key}.", suffix=PART, dir=target.parent))
    except OSError:  # StorageError is one too
        return None
    try:
        write(aside)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(aside, target)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        return target if target.exists() else None
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    _make_room(target)
    return target if target.exists() else None


def _make_room(newest: Path) -> None:
    """Let the least recently used go; the newest itself where it alone is too large."""
    _drop_halves(newest.parent, older_than=OLD_SECONDS)
    limit = cache_limit()
    entries = sorted(_decoded(newest.parent), key=lambda entry: entry.used)
    own = sum(entry.bytes for entry in entries if entry.path == newest)
    if own > limit:
        shutil.rmtree(newest, ignore_errors=True)
        return
    total = sum(entry.bytes for entry in entries)
    for entry in entries:
        if total > limit and entry.path != newest:
            shutil.rmtree(entry.path, ignore_errors=True)
            total -= entry.bytes


def _drop_halves(folder: Path, older_than: float) -> None:
    """Delete what kills left half-written."""
    for path in folder.glob(f".*{PART}"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > older_than:
                shutil.rmtree(path, ignore_errors=True)


def list_cache(image_size: int | None = None) -> list[CacheEntry]:
    """What the cache holds, the most recently used first; of a size, images of that alone."""
    folder = cache_folder()
    found = list(_decoded(folder / DECODED))
    if image_size is not None:
        found = [entry for entry in found if entry.image_size == image_size]
        return sorted(found, key=lambda entry: -entry.used)
    for title, paths in (
        ("hashes of files", _hash_files()),
        ("unpacked by the datasets library", [folder / UNPACKED]),
        ("decoded by an earlier version", _earlier()),
    ):
        parts = [_entry("", path) for path in paths if path.exists()]
        if parts:
            size, used = sum(one.bytes for one in parts), max(one.used for one in parts)
            found.append(CacheEntry(title, parts[0].path, size, used))
    return sorted(found, key=lambda entry: -entry.used)


def _earlier() -> list[Path]:
    """Decoded images as versions up to 0.1 kept them."""
    found = [path for path in cache_folder().glob("*") if path.suffix in (".npy", ".json")]
    return [path for path in found if KEY.fullmatch(path.stem)]


def _hash_files() -> list[Path]:
    return [path for path in (cache_folder() / HASHES).glob("*.json") if KEY.fullmatch(path.stem)]


def cache_contents(image_size: int | None = None) -> dict[str, Any]:
    """The cache's "folder", its "limit" in bytes, and its "entries", as JSON has them."""
    entries = [vars(entry) | {"path": str(entry.path)} for entry in list_cache(image_size)]
    return {"folder": str(cache_folder()), "limit": cache_limit(), "entries": entries}


def clear_cache(image_size: int | None = None) -> int:
    """Delete all that list_cache lists; returns the bytes.

    Raises:
        StorageError: something cannot be deleted.
    """
    folder = cache_folder()
    if image_size is not None:
        entries = list_cache(image_size)
        for entry in entries:
            _delete(entry.path)
        return sum(entry.bytes for entry in entries)
    _drop_halves(folder / DECODED, older_than=0)
    kept = [entry.path for entry in _decoded(folder / DECODED)]
    freed = 0
    for path in [*kept, *_hash_files(), folder / UNPACKED, *_earlier()]:
        freed += _entry("", path).bytes
        _delete(path)
    for name in (DECODED, HASHES):
        with contextlib.suppress(OSError):  # not there, or with files of somebody else in it
            (folder / name).rmdir()
    return freed


def _delete(path: Path) -> None:
    """Delete a file or a folder, if another process has not. Raises StorageError."""
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"cannot delete {path}: {error.strerror or error}") from error


def _decoded(folder: Path) -> Iterator[CacheEntry]:
    paths = [path for path in folder.glob("*") if KEY.fullmatch(path.name) and path.is_dir()]
    for path in paths:
        title, image_size = _noted(path)
        yield replace(_entry(title, path), image_size=image_size)


def _noted(path: Path) -> tuple[str, int | None]:
    """What decoded images are, and their size."""
    try:
        note: Any = read_json(path / NOTE)
        size = note["size"]
        squashed = ", squashed" if note.get("fit") == "squash" else ""
        return f"{note['title']}, {note['images']} images at {size} px{squashed}", size
    except (StorageError, KeyError, TypeError, AttributeError):
        return "damaged", None


def _entry(title: str, path: Path) -> CacheEntry:
    """What a file or folder takes; nothing of what another process deletes meanwhile."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    size, used = 0, 0.0
    for file in files:
        with contextlib.suppress(OSError):
            status = file.stat()
            size, used = size + status.st_size, max(used, status.st_mtime)
    return CacheEntry(title, path, size, used or time.time())
