"""Data sets of the Hugging Face hub, downloaded or read from a folder with their parquet files."""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pass_transfer.errors import TaskError
from pass_transfer.files import make_folder
from pass_transfer.hub import in_words
from pass_transfer.tasks.images import cache_folder
from pass_transfer.tasks.source import Encoded, Source, TaskSource

if TYPE_CHECKING:
    from datasets import Dataset

    Tables = Mapping[str, Dataset]


@dataclass(frozen=True)
class HubDataset:
    """Where a task lives on the Hugging Face hub and how its splits are called there.

    `test` has the names of the published test split; the first that exists is used.
    """

    repository: str
    test: tuple[str, ...]


HUB = {
    "cifar10": HubDataset("uoft-cs/cifar10", ("test",)),
    "cifar100": HubDataset("uoft-cs/cifar100", ("test",)),
    "tiny-imagenet": HubDataset("zh-plus/tiny-imagenet", ("valid", "validation")),
    "dtd": HubDataset("tanganke/dtd", ("test",)),
    "stanford-cars": HubDataset("tanganke/stanford_cars", ("test",)),
    "food101": HubDataset("ethz/food101", ("validation", "test")),
}
OTHER_TEST_NAMES = ("test", "validation", "valid")
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("fine_label", "label", "labels")


@contextmanager
def _without_bars() -> Iterator[None]:
    """The datasets library shows no bars; the caller's choice stands again after."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


@_without_bars()
def load_parquet_sources(
    name: str, data_dir: str | Path | None
) -> tuple[list[str], dict[str, Source]]:
    """Class names, and the sources of the train and test splits.

    Raises TaskError for a data set that cannot be had, read, or used for classification.
    """
    if data_dir is None:
        tables, place = _from_hub(name), "on the hub"
    else:
        tables, place = _from_folder(name, Path(data_dir).expanduser()), f"in {data_dir}"
    test = _first(HUB[name].test + OTHER_TEST_NAMES, tables)
    if "train" not in tables or test is None:
        raise TaskError(f"{name} needs a train and a test split; found {', '.join(tables)} {place}")
    features = tables["train"].features
    image, label = _first(IMAGE_COLUMNS, features), _first(LABEL_COLUMNS, features)
    if image is None or label is None:
        raise TaskError(
            f"{name}: no image and label column among {', '.join(features)}; expected one of "
            f"{'/'.join(IMAGE_COLUMNS)} and one of {'/'.join(LABEL_COLUMNS)}"
        )
    titles = {"train": f"{name} train", "test": f"{name} {test}"}
    parts = {"train": tables["train"], "test": tables[test]}
    labels = {split: _labels(part, label, titles[split]) for split, part in parts.items()}
    sources = {
        split: _source(part, image, labels[split], titles[split]) for split, part in parts.items()
    }
    return _class_names(name, features[label], label, labels), sources


def _first(names: Sequence[str], present: Mapping[str, object]) -> str | None:
    """The first of some names that is there."""
    return next((name for name in names if name in present), None)


def _class_names(
    name: str, feature: object, column: str, labels: Mapping[str, np.ndarray]
) -> list[str]:
    """The names of the label column; numbers where it has none."""
    highest = {split: int(part.max(initial=-1)) for split, part in labels.items()}
    names = getattr(feature, "names", None)
    if names is None:
        names = [str(number) for number in range(highest["train"] + 1)]
    if max(highest.values()) >= len(names):
        raise TaskError(
            f"{name}: the column {column} holds labels above {len(names) - 1}, the last class"
        )
    return list(names)


def _from_hub(name: str) -> Tables:
    import datasets

    repository = HUB[name].repository
    try:
        return datasets.load_dataset(repository)
    except Exception as error:  # the hub client raises many kinds, from requests, httpx and its own
        raise TaskError(
            f"cannot get {name} ({repository}) from the Hugging Face hub: {in_words(error)}. "
            "Without a network, give data_dir, a folder with its parquet files."
        ) from error


def _from_folder(name: str, folder: Path) -> Tables:
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
    """Where the datasets library unpacks parquet files.

    It is a folder of this process alone where the cache cannot be written.
    """
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
            f"data_dir {folder} is not a folder; "
            f"give the folder that holds the parquet files of {name}"
        )
    files: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        split = path.name.split("-")[0].removesuffix(".parquet")
        files.setdefault(split, []).append(str(path))
    if not files:
        raise TaskError(
            f"no parquet file in {folder}; {name} is expected as train-*.parquet "
            f"and {HUB[name].test[0]}-*.parquet"
        )
    return files


def _labels(table: Dataset, column: str, title: str) -> np.ndarray:
    try:
        labels = np.asarray(table[column], np.int64)
    except (TypeError, ValueError):
        raise TaskError(
            f"{title}: the column {column} does not hold a class number for every image"
        ) from None
    unlabelled = int((labels < 0).sum())
    if unlabelled:
        raise TaskError(
            f"{title}: {unlabelled} images have no label (the column {column} is negative)"
        )
    return labels


def _source(table: Dataset, column: str, labels: np.ndarray, title: str) -> Source:
    import datasets

    encoded = table.cast_column(column, datasets.Image(decode=False))

    def fetch(index: int) -> Encoded:
        cell = encoded[index][column] or {"bytes": b""}
        return cell["bytes"] if cell["bytes"] is not None else cell["path"]

    # The arrow fingerprint follows the content of the parquet files, not their place.
    return Source(fetch, labels, f"{title} {table._fingerprint}", lambda i: f"{title}, row {i}")


PARQUET = TaskSource(load_parquet_sources, names=tuple(HUB))
