"""One's own images: folder:PATH, with one folder of image files for each class."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pass_transfer.errors import TaskError
from pass_transfer.tasks.source import Source, TaskSource

PREFIX = "folder:"
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


def load_folder_sources(
    name: str, data_dir: str | Path | None
) -> tuple[list[str], dict[str, Source]]:
    """Class names, and a source for each split that has a folder.

    Raises TaskError for a folder that is missing, or that holds no classes or no images.
    """
    root = Path(name.removeprefix(PREFIX)).expanduser()
    if not root.is_dir():
        raise TaskError(
            f"{root} is not a folder; give folder:PATH with one folder of images per class"
        )
    folders = _split_folders(root)
    names = _class_folders(folders["train"])
    _check_classes(root, folders["train"], names)
    return names, {split: _source(folder, names) for split, folder in folders.items()}


def _split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split; the root alone where there is no train folder.

    Where val stands without test, as is usual, it is the test split.
    """
    found = {}
    for split, alternatives in SPLIT_FOLDERS.items():
        present = [root / name for name in alternatives if (root / name).is_dir()]
        if present:
            found[split] = present[0]
    if "train" not in found:
        return {"train": root}
    if "val" in found and "test" not in found:
        return {"train": found["train"], "test": found["val"]}
    return found


def _class_folders(folder: Path) -> list[str]:
    children = [path for path in folder.iterdir() if path.is_dir()]
    return sorted(path.name for path in children if not path.name.startswith("."))


def _check_classes(root: Path, train: Path, names: Sequence[str]) -> None:
    if not names:
        raise TaskError(f"{train} holds no class folders; expected {train}/CLASS/image files")
    split_names = set().union(*SPLIT_FOLDERS.values())
    if train == root and split_names.issuperset(names):
        raise TaskError(
            f"{root} holds {', '.join(names)} but no train folder; "
            f"add {root}/train/CLASS/image files"
        )


def _source(folder: Path, names: Sequence[str]) -> Source:
    extra = sorted(set(_class_folders(folder)) - set(names))
    if extra:
        raise TaskError(
            f"{folder} has the class(es) {', '.join(extra[:3])} that the training folder lacks"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = _image_files(folder / name)
        paths += found
        labels += [label] * len(found)
    if not paths:
        endings = ", ".join(IMAGE_ENDINGS)
        raise TaskError(f"{folder} holds no image files ({endings}) in its class folders")
    return Source(
        lambda i: str(paths[i]),
        np.asarray(labels, np.int64),
        _fingerprint(paths),
        lambda i: str(paths[i]),
    )


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_ENDINGS)


def _fingerprint(paths: Sequence[Path]) -> str:
    """Of the files' places, sizes and times: a changed file is decoded again."""
    stamps = []
    for path in paths:
        status = path.stat()
        stamps.append((str(path.resolve()), status.st_size, status.st_mtime_ns))
    return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()


FOLDERS = TaskSource(load_folder_sources, prefix=PREFIX, others="folder:PATH for your own images")
