"""One's own images: folder:PATH, with one folder of image files for each class (docs/data.md)."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pass_transfer.arguments import expanded
from pass_transfer.errors import TaskError, UsageError
from pass_transfer.tasks.left_out import Tally
from pass_transfer.tasks.listing import (
    Folder,
    ImageFile,
    Opened,
    images_among,
    images_below,
    list_folder,
    start_folder,
)
from pass_transfer.tasks.source import UNSPLIT, Source, TaskSource

PREFIX = "folder:"
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
OUTSIDE = "images outside the class folders"
BESIDE = "folders beside the split folders"


def load_folder_sources(
    name: str, data_dir: str | Path | None
) -> tuple[list[str], dict[str, Source]]:
    """Class names, and a source for each split that has a folder; UNSPLIT where none has.

    Raises:
        TaskError: a folder that is missing, that may be understood in two ways, or that holds
            no classes or no images.
        UsageError: another folder beside it.
    """
    if data_dir is not None:
        message = f"data_dir is {data_dir}; {name} is a folder itself, and takes no other"
        raise UsageError(message, "data_dir")
    if name == PREFIX:
        raise UsageError("task is 'folder:' without a folder; give folder:PATH", "task")
    root = expanded(name.removeprefix(PREFIX))
    tally = Tally()
    try:
        top = list_folder(start_folder(root), tally)
    except OSError as error:
        why = error.strerror or error
        raise TaskError(
            f"{root} is not a folder ({why}); give folder:PATH with one folder of images per class"
        ) from error
    splits = _split_folders(root, top, tally) or {UNSPLIT: top}
    classes = {split: _class_folders(folder) for split, folder in splits.items()}
    names = _class_names(root, classes)
    sources = {}
    for split, folder in splits.items():
        _outside(folder, tally)
        sources[split] = _source(root, split, names, classes[split], tally)
        tally = Tally()
    return names, sources


def _split_folders(root: Path, top: Folder, tally: Tally) -> dict[str, Folder]:
    """What is in the folder of each split; nothing where the folders are classes.

    A folder is a split's if it has such a name and its images lie in folders. One that has
    images of its own beside them is a split's too, where no other folder may be a class.
    Where val stands with train and without test, as is usual, it is the test split.
    """
    named = [folder for folder in top.folders if _split_of(folder)]
    others = [folder for folder in top.folders if folder not in named]
    tallies = {folder: Tally() for folder in named}
    listed = {folder: list_folder(folder, tallies[folder]) for folder in named}
    found = [folder for folder in named if listed[folder].folders and not _own(listed[folder])]
    if found or not others:
        mixed = [folder for folder in named if folder not in found and listed[folder].folders]
        found += [folder for folder in mixed if any(map(_holds_images, listed[folder].folders))]
    if not found:
        if others or not named:
            return {}
        shown = " and ".join(folder.name for folder in named)
        example = root / named[0].name / "CLASS"
        raise TaskError(f"{root} holds {shown} without class folders; expected {example}/images")
    _refuse_doubt(root, found, others)
    for folder in named:
        tally.join(tallies[folder])
        if folder not in found:
            for file in _own(listed[folder]):
                tally.add(OUTSIDE, file.name, images=False)
    for folder in others:
        tally.add(BESIDE, folder.name, images=False)
    _outside(top, tally)
    splits = {_split_of(folder): listed[folder] for folder in found}
    if "val" in splits and "train" in splits and "test" not in splits:
        splits["test"] = splits.pop("val")
    return {split: splits[split] for split in SPLIT_NAMES if split in splits}


def _own(folder: Folder) -> list[ImageFile]:
    """The images that lie in a folder itself."""
    return images_among(folder.files, Tally())


def _holds_images(folder: Opened) -> bool:
    return bool(images_below(folder, Tally()))


def _split_of(folder: Opened) -> str:
    """The split that a folder's name stands for, or ""."""
    name = folder.name.lower()
    return next((split for split, names in SPLIT_NAMES.items() if name in names), "")


def _refuse_doubt(root: Path, found: Sequence[Opened], others: Sequence[Opened]) -> None:
    """Raise TaskError where the split folders can be understood in two ways."""
    seen: dict[str, str] = {}
    for folder in found:
        split = _split_of(folder)
        if split in seen:
            raise TaskError(
                f"{root} has two folders for one split, {seen[split]} and {folder.name}; "
                "leave one of them"
            )
        seen[split] = folder.name
    with_images = [folder.name for folder in others if _holds_images(folder)]
    if len(found) == 1 and with_images:
        name = found[0].name
        raise TaskError(
            f"{root}: {name} may be a split or a class. If a split, move {with_images[0]} and "
            f"the other classes into it; if a class, put its images into {name} itself"
        )


def _class_folders(folder: Folder) -> dict[str, list[Opened]]:
    """The folders of each class, by its name in composed Unicode: macOS decomposes names."""
    classes: dict[str, list[Opened]] = {}
    for child in folder.folders:
        name = unicodedata.normalize("NFC", child.name.rpartition("/")[2])
        try:
            name.encode()
        except UnicodeEncodeError:
            shown = child.path.encode(errors="backslashreplace").decode()
            raise TaskError(f"the name of the folder {shown} is no valid text; rename it") from None
        classes.setdefault(name, []).append(child)
    return classes


def _class_names(root: Path, classes: Mapping[str, Mapping[str, object]]) -> list[str]:
    """The training folder's classes; those of all splits where there is no such folder."""
    for split in (UNSPLIT, "train"):
        if split in classes:
            if not classes[split]:
                where = root if split == UNSPLIT else root / split
                raise TaskError(f"{where} holds no class folders; expected {where}/CLASS/images")
            return sorted(classes[split])
    return sorted(set().union(*classes.values()))


def _outside(folder: Folder, tally: Tally) -> None:
    """Count the images that lie beside the class folders."""
    for file in images_among(folder.files, tally):
        tally.add(OUTSIDE, file.name, images=False)


def _source(
    root: Path,
    split: str,
    names: Sequence[str],
    classes: Mapping[str, Sequence[Opened]],
    tally: Tally,
) -> Source:
    extra = sorted(set(classes) - set(names))
    if extra:
        raise TaskError(
            f"{root}: the {split} images have the class(es) {', '.join(extra[:3])} that the "
            "training folder lacks"
        )
    files: list[ImageFile] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        for folder in classes.get(name, ()):
            found = images_below(folder, tally)
            files += found
            labels += [label] * len(found)
    if not files:
        where = "" if split == UNSPLIT else f" for the {split} split"
        raise TaskError(f"{root} holds no image files{where} in its class folders")
    paths = [file.path for file in files]
    below = [_below_split(file.name, split) for file in files]
    return Source(
        paths.__getitem__,
        np.asarray(labels, np.int64),
        None,
        paths.__getitem__,
        files,
        root,
        below.__getitem__,
        tally.all(),
    )


def _below_split(name: str, split: str) -> str:
    return name if split == UNSPLIT else name.partition("/")[2]


FOLDERS = TaskSource(load_folder_sources, prefix=PREFIX, others="folder:PATH for your own images")
