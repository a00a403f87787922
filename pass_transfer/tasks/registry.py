"""Tasks by name: Hugging Face datasets, image folders, and scikit-learn's digits.

`load_task("cifar100")` downloads from the hub; `data_dir` points at a folder with
the same parquet files instead. `load_task("folder:PATH")` reads one's own images.
"""

from __future__ import annotations

import atexit
import difflib
import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pass_transfer.errors import TaskError, UsageError
from pass_transfer.files import make_folder
from pass_transfer.progress import say
from pass_transfer.tasks.images import Source, cache_folder, open_images
from pass_transfer.tasks.task import Split, Task, hold_out


@dataclass(frozen=True)
class HubDataset:
    """Where a task lives on the Hugging Face hub and how its splits are called there."""

    repository: str
    test: tuple[str, ...]  # names of the published test split, the first that exists is used


HUB = {
    "cifar10": HubDataset("uoft-cs/cifar10", ("test",)),
    "cifar100": HubDataset("uoft-cs/cifar100", ("test",)),
    "tiny-imagenet": HubDataset("zh-plus/tiny-imagenet", ("valid", "validation")),
    "dtd": HubDataset("tanganke/dtd", ("test",)),
    "stanford-cars": HubDataset("tanganke/stanford_cars", ("test",)),
    "food101": HubDataset("ethz/food101", ("validation", "test")),
}
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("fine_label", "label", "labels")
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
TEST_SHARE = 0.2  # of a folder without splits: enough to measure by, most is left to learn from


def task_names() -> tuple[str, ...]:
    """The names load_task knows, apart from folder:PATH."""
    return ("digits", *HUB)


def load_task(name: str, size: int, data_dir: str | Path | None = None) -> Task:
    """Load a classification task with its images at size x size pixels.

    Args:
        name: one of task_names(), or "folder:PATH" for PATH/CLASS/image files, with or
            without train/, val/ and test/ above the classes.
        size: image side in pixels; images are resized to a square.
        data_dir: a folder with the dataset's parquet files, instead of downloading it.

    Returns:
        The task; its held-out images are the same in every run.

    Raises:
        UsageError: unknown name.
        TaskError: nothing there, not two classes, or a class without enough images.
    """
    check_name(name)
    if name.startswith("folder:"):
        names, sources = _folder_sources(Path(name.removeprefix("folder:")).expanduser())
    elif name == "digits":
        names, sources = _digits_sources()
    else:
        names, sources = _parquet_sources(name, data_dir)
    if len(names) < 2:
        raise TaskError(
            f"{name} has {len(names)} class(es) ({', '.join(names) or 'none'}); a task needs at least two"
        )
    return _assemble(name, names, sources, size)


def check_name(name: str) -> None:
    """Raises UsageError for what is neither a task's name nor folder:PATH."""
    if name not in task_names() and not name.startswith("folder:"):
        near = difflib.get_close_matches(name, task_names(), 1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"unknown task {name!r}. {hint}Known: {', '.join(task_names())}, or folder:PATH for your own images."
        )


def _assemble(name: str, names: list[str], sources: dict[str, Source], size: int) -> Task:
    splits, skipped = {}, 0
    for key, source in sources.items():
        images, good, bad = open_images(source, size, f"{name} {key}")
        if bad:
            shown = ", ".join(source.describe(i) for i in bad[:3])
            say(
                f"warning: {len(bad)} of {len(source)} {key} images cannot be decoded and are skipped: {shown}"
                + (" ..." if len(bad) > 3 else "")
            )
        skipped += len(bad)
        splits[key] = Split(images, good, source.labels[good])
        for c, count in enumerate(np.bincount(splits[key].labels, minlength=len(names))):
            if key == "train" and count == 0:
                raise TaskError(f"{name}: the class {names[c]!r} has no readable training image")
        if len(good) == 0:
            raise TaskError(f"{name}: the {key} split has no readable image")
    if "test" not in splits:
        splits["train"], splits["test"] = _cut(splits["train"], names, TEST_SHARE)
    if "val" not in splits:
        try:
            train, held = hold_out(splits["train"].labels, names)
        except TaskError as error:
            raise TaskError(f"{name}: {error}") from None
        splits["val"], splits["train"] = splits["train"].subset(held), splits["train"].subset(train)
    return Task(name, tuple(names), size, splits["train"], splits["val"], splits["test"], skipped)


def _cut(split: Split, names: list[str], share: float) -> tuple[Split, Split]:
    """(rest, part): a share of each class, chosen by the labels alone and so the same every time."""
    generator = np.random.default_rng(0)
    part = []
    for c, name in enumerate(names):
        members = np.flatnonzero(split.labels == c)
        if len(members) < 3:
            raise TaskError(
                f"the class {name!r} has {len(members)} image(s); a folder without a test split needs at least 3 "
                f"in every class: one to train on, one to select by, one to test on"
            )
        part.append(generator.permutation(members)[: max(1, round(share * len(members)))])
    chosen = np.sort(np.concatenate(part))
    return split.subset(np.setdiff1d(np.arange(len(split)), chosen)), split.subset(chosen)


def _digits_sources() -> tuple[list[str], dict[str, Source]]:
    """scikit-learn's 1,797 handwritten digits (8 x 8, 17 grey levels); every fifth is the test split."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = np.clip(data.images * 255.0 / 16.0, 0, 255).astype(np.uint8)
    test = np.arange(len(pixels)) % 5 == 4

    def source(chosen: np.ndarray, key: str) -> Source:
        images, labels = pixels[chosen], data.target[chosen].astype(np.int64)
        return Source(lambda i: images[i], labels, f"digits {key}", lambda i: f"digit {i}")

    return [str(n) for n in data.target_names], {
        "train": source(~test, "train"),
        "test": source(test, "test"),
    }


def _parquet_sources(name: str, data_dir: str | Path | None) -> tuple[list[str], dict[str, Source]]:
    import datasets

    datasets.disable_progress_bars()
    if data_dir is None:
        found = _from_hub(name)
    else:
        found = _from_folder(name, Path(data_dir).expanduser())
    test = next((s for s in HUB[name].test + ("test", "validation", "valid") if s in found), None)
    if "train" not in found or test is None:
        raise TaskError(
            f"{name} needs a train and a test split; found {', '.join(found)}"
            + (f" in {data_dir}" if data_dir else " on the hub")
        )
    features = found["train"].features
    image = next((c for c in IMAGE_COLUMNS if c in features), None)
    label = next((c for c in LABEL_COLUMNS if c in features), None)
    if image is None or label is None:
        raise TaskError(
            f"{name}: no image and label column among {', '.join(features)}; expected one of "
            f"{'/'.join(IMAGE_COLUMNS)} and one of {'/'.join(LABEL_COLUMNS)}"
        )
    names = getattr(features[label], "names", None)
    labels = {
        "train": _labels(found["train"], label, f"{name} train"),
        "test": _labels(found[test], label, f"{name} {test}"),
    }
    if names is None:
        names = [str(n) for n in range(labels["train"].max(initial=-1) + 1)]
    if max(part.max(initial=-1) for part in labels.values()) >= len(names):
        raise TaskError(
            f"{name}: the column {label} holds labels above {len(names) - 1}, the last class"
        )
    return list(names), {
        "train": _table_source(found["train"], image, labels["train"], f"{name} train"),
        "test": _table_source(found[test], image, labels["test"], f"{name} {test}"),
    }


def _from_hub(name: str):
    import datasets

    try:
        return datasets.load_dataset(HUB[name].repository)
    except Exception as error:  # the hub client raises many kinds, from requests, httpx and its own
        raise TaskError(
            f"cannot get {name} ({HUB[name].repository}) from the Hugging Face hub: {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}. Without a network, give --data-dir a "
            f"folder with its parquet files."
        ) from error


def _from_folder(name: str, folder: Path):
    import datasets

    files = _parquet_files(name, folder)
    try:
        return datasets.load_dataset("parquet", data_files=files, cache_dir=_datasets_cache())
    except Exception as error:  # pyarrow and datasets raise many kinds for damaged files
        cause = error.__cause__ or error
        raise TaskError(
            f"cannot read {name} from {folder}: {type(cause).__name__}: {cause}"
        ) from error


def _datasets_cache() -> str:
    """Where Hugging Face datasets unpacks parquet files; a folder of this process where the cache cannot be written."""
    try:
        folder = make_folder(cache_folder() / "datasets")
        tempfile.TemporaryFile(dir=folder).close()
        return str(folder)
    except OSError:
        spare = tempfile.TemporaryDirectory(prefix="pass-transfer-")
        atexit.register(spare.cleanup)
        return spare.name


def _parquet_files(name: str, folder: Path) -> dict[str, list[str]]:
    if not folder.is_dir():
        raise TaskError(
            f"--data-dir {folder} is not a folder; give the folder that holds the parquet files of {name}"
        )
    files: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        split = path.name.split("-")[0].removesuffix(".parquet")
        files.setdefault(split, []).append(str(path))
    if not files:
        raise TaskError(
            f"no parquet file in {folder}; {name} is expected as train-*.parquet and {HUB[name].test[0]}-*.parquet"
        )
    return files


def _labels(table, label: str, title: str) -> np.ndarray:
    try:
        labels = np.asarray(table[label], np.int64)
    except (TypeError, ValueError):
        raise TaskError(
            f"{title}: the column {label} does not hold a class number for every image"
        ) from None
    if (labels < 0).any():
        raise TaskError(
            f"{title}: {int((labels < 0).sum())} images have no label (the column {label} is negative)"
        )
    return labels


def _table_source(table, image: str, labels: np.ndarray, title: str) -> Source:
    import datasets

    encoded = table.cast_column(image, datasets.Image(decode=False))

    def fetch(index: int):
        cell = encoded[index][image] or {"bytes": b""}
        return cell["bytes"] if cell["bytes"] is not None else cell["path"]

    # the arrow fingerprint follows the content of the parquet files, not their place
    return Source(fetch, labels, f"{title} {table._fingerprint}", lambda i: f"{title}, row {i}")


def _folder_sources(root: Path) -> tuple[list[str], dict[str, Source]]:
    if not root.is_dir():
        raise TaskError(
            f"{root} is not a folder; give folder:PATH with one folder of images per class"
        )
    parts = {
        key: next((root / n for n in names if (root / n).is_dir()), None)
        for key, names in SPLIT_FOLDERS.items()
    }
    if parts["train"] is None:
        parts = {"train": root, "val": None, "test": None}
    elif parts["test"] is None and parts["val"] is not None:
        parts = {
            "train": parts["train"],
            "val": None,
            "test": parts["val"],
        }  # the usual train/val layout: val is the test
    names = sorted(
        p.name for p in parts["train"].iterdir() if p.is_dir() and not p.name.startswith(".")
    )
    if not names:
        raise TaskError(
            f"{parts['train']} holds no class folders; expected {parts['train']}/CLASS/image files"
        )
    if parts["train"] == root and set(names) <= {
        n for alternatives in SPLIT_FOLDERS.values() for n in alternatives
    }:
        raise TaskError(
            f"{root} holds {', '.join(names)} but no train folder; add {root}/train/CLASS/image files"
        )
    return names, {
        key: _folder_source(folder, names) for key, folder in parts.items() if folder is not None
    }


def _folder_source(folder: Path, names: list[str]) -> Source:
    extra = sorted(
        {p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")} - set(names)
    )
    if extra:
        raise TaskError(
            f"{folder} has the class(es) {', '.join(extra[:3])} that the training folder lacks"
        )
    paths, labels = [], []
    for c, name in enumerate(names):
        found = (
            sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in IMAGE_ENDINGS)
            if (folder / name).is_dir()
            else []
        )
        paths += found
        labels += [c] * len(found)
    if not paths:
        raise TaskError(
            f"{folder} holds no image files ({', '.join(IMAGE_ENDINGS)}) in its class folders"
        )
    stamps = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
    fingerprint = hashlib.sha256(json.dumps(stamps).encode()).hexdigest()
    return Source(
        lambda i: str(paths[i]), np.asarray(labels, np.int64), fingerprint, lambda i: str(paths[i])
    )
