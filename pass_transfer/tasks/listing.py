"""The image files below a folder, as people have folders: with links, hidden and system files."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pass_transfer.tasks.decoding import HEAD, NO_ACCESS, known_by_content
from pass_transfer.tasks.left_out import Tally

# An image file is known by its content; one that has such an ending and no such content is a
# damaged image, not some other file.
IMAGE_ENDINGS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .webp .bmp .dib .gif .ppm .pgm .pbm .pnm .tif .tiff .heic "
    ".heif .avif .jp2 .ico .svg .psd .dng .cr2 .nef .arw".split()
)
SYSTEM = frozenset(
    "__macosx thumbs.db ehthumbs.db desktop.ini icon\r $recycle.bin @eadir lost+found "
    "__pycache__".split(" ")
) | {"system volume information"}

NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)

HIDDEN = "hidden or system files"
BROKEN = "links that lead nowhere"
REPEATED = "links to a folder that is read already"
OTHERS = "files that are no images"


class Stamp(NamedTuple):
    """What changes with a file's content: its size in bytes, times in nanoseconds, and place."""

    size: int
    modified: int
    changed: int
    inode: int


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file that is or should be an image: its path, its name below the folder, its stamp."""

    path: str
    name: str
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class Folder:
    """What is to be seen in a folder, by name; folders with the way that led there."""

    files: list[ImageFile]
    folders: list[Opened]


@dataclass(frozen=True, slots=True)
class Opened:
    """A folder that can be listed: its path and name, the folders it lies in, and which it is."""

    path: str
    name: str
    above: frozenset[tuple[int, int]] = frozenset()
    identity: tuple[int, int] = (0, 0)


def listed(path: str, name: str) -> ImageFile:
    """One file by its path; a stamp of zeros where it cannot be had."""
    try:
        return ImageFile(path, name, _stamp(os.stat(path)))
    except OSError:
        return ImageFile(path, name, Stamp(0, 0, 0, 0))


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is never data."""
    return name.startswith(".") or name.lower() in SYSTEM


def start_folder(path: str | Path) -> Opened:
    """The folder that a listing begins with."""
    return Opened(os.fspath(path), "", frozenset([_identity(os.stat(path))]))


def list_folder(folder: Opened, tally: Tally) -> Folder:
    """The visible files and folders in one folder; what is left out goes into the tally.

    Links are followed, but for those that lead to a folder they lie in.
    """
    files: list[ImageFile] = []
    folders: list[Opened] = []
    for entry in _entries(folder, tally):
        name = f"{folder.name}/{entry.name}" if folder.name else entry.name
        if is_hidden(entry.name):
            tally.add(HIDDEN, name, images=False)
            continue
        try:
            status = entry.stat()
        except OSError as error:
            tally.add(BROKEN if error.errno in NOWHERE else NO_ACCESS, name)
            continue
        if stat.S_ISDIR(status.st_mode):
            identity = _identity(status)
            if identity in folder.above:
                tally.add(REPEATED, name, images=False)
            else:
                folders.append(Opened(entry.path, name, folder.above | {identity}, identity))
        elif stat.S_ISREG(status.st_mode):
            files.append(ImageFile(entry.path, name, _stamp(status)))
        else:
            tally.add(OTHERS, name, images=False)
    return Folder(files, folders)


def images_below(folder: Opened, tally: Tally) -> list[ImageFile]:
    """All image files in a folder, at any depth, sorted by name.

    A folder that several links lead to is read once, where it is nearest to the top.
    """
    found: list[ImageFile] = []
    waiting, seen = deque([folder]), set(folder.above)
    while waiting:
        listed = list_folder(waiting.popleft(), tally)
        found += images_among(listed.files, tally)
        for child in listed.folders:
            if child.identity in seen:
                tally.add(REPEATED, child.name, images=False)
            else:
                seen.add(child.identity)
                waiting.append(child)
    return sorted(found, key=lambda file: file.name.split("/"))


def images_among(files: list[ImageFile], tally: Tally) -> list[ImageFile]:
    """Those of some files that are images, or should be by their ending."""
    found = []
    for file in files:
        if os.path.splitext(file.name)[1].lower() in IMAGE_ENDINGS:
            found.append(file)
            continue
        try:
            with open(file.path, "rb") as opened:
                is_image = known_by_content(opened.read(HEAD))
        except OSError:
            tally.add(NO_ACCESS, file.name)
            continue
        if is_image:
            found.append(file)
        else:
            tally.add(OTHERS, file.name, images=False)
    return found


def _entries(folder: Opened, tally: Tally) -> Iterator[os.DirEntry[str]]:
    """What is in a folder, by name; nothing where it may not be listed, which is counted."""
    try:
        with os.scandir(folder.path) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        tally.add("folders that cannot be listed", folder.name or folder.path)
        return
    yield from found


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
