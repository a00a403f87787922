"""Data sets of the Hugging Face hub, downloaded or read from a folder with their parquet files."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pass_transfer.arguments import expanded
from pass_transfer.errors import TaskError
from pass_transfer.files import make_folder
from pass_transfer.hub import in_words
from pass_transfer.tasks.cache import UNPACKED, cache_folder
from pass_transfer.tasks.decoding import Encoded
from pass_transfer.tasks.hashes import FileHashes
from pass_transfer.tasks.label_columns import read_labels
from pass_transfer.tasks.listing import listed
from pass_transfer.tasks.source import Source, TaskSource

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


@contextlib.contextmanager
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
    folder = None if data_dir is None else expanded(data_dir)
    files = {} if folder is None else _parquet_files(name, folder)
    tables = _from_hub(name) if folder is None else _from_folder(name, folder, files)
    place = "on the hub" if folder is None else f"in {folder}"
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
    parts = {"train": tables["train"], "test": tables[test]}
    titles = {"train": f"{name} train", "test": f"{name} {test}"}
    names, labels = read_labels(parts, label, titles)
    sources = {}
    for split, part in parts.items():
        paths = [Path(path) for path in files.get("train" if split == "train" else test, ())]
        rows = Rows.of(part, image, [folder, *(path.parent for path in paths)] if folder else [])
        key = f"{titles[split]} {_fingerprint(folder, paths) if folder else part._fingerprint}"
        sources[split] = _source(rows, labels[split], key, titles[split], folder)
    return names, sources


def _first(names: Sequence[str], present: Mapping[str, object]) -> str | None:
    """The first of some names that is there."""
    return next((name for name in names if name in present), None)


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


def _from_folder(name: str, folder: Path, files: dict[str, list[str]]) -> Tables:
    import datasets

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
        folder = make_folder(cache_folder() / UNPACKED)
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


def _fingerprint(folder: Path, paths: Sequence[Path]) -> str:
    """A hash of the parquet files' content."""
    files = [listed(str(path), path.name) for path in paths]
    found = FileHashes(folder).known(files, few=len(files))
    return hashlib.sha256("".join(map(str, found)).encode()).hexdigest()


@dataclass(frozen=True)
class Rows:
    """Undecoded images in the rows of a table. It can be pickled, for processes that are spawned.

    Fields:
        table: with image cells {"bytes": ..., "path": ...}.
        column: their column.
        base: what relative paths begin from; None where there are none.
        are_files: whether each image is a file of its own.
        some_are: whether any is.
    """

    table: Dataset
    column: str
    base: Path | None
    are_files: bool
    some_are: bool

    @classmethod
    def of(cls, table: Dataset, column: str, bases: Sequence[Path]) -> Rows:
        """The rows of a table; relative paths begin at the first of `bases` that has the first.

        Raises TaskError for a column that cannot hold images.
        """
        import datasets
        import pyarrow.compute

        try:
            encoded = table.cast_column(column, datasets.Image(decode=False))
        except Exception as error:  # pyarrow raises many kinds
            raise TaskError(
                f"the column {column} holds {table.features[column]}; images are bytes or paths"
            ) from error
        cells = encoded.data.column(column)
        held = pyarrow.compute.struct_field(cells, "bytes")
        paths = pyarrow.compute.struct_field(cells, "path")
        are_files = len(cells) > 0 and held.null_count == len(cells) and paths.null_count == 0
        base = None
        if held.null_count and bases:
            first = paths.drop_null()[0].as_py() if paths.null_count < len(cells) else ""
            base = next((one for one in bases if (one / first).is_file()), bases[0])
        alone = pyarrow.compute.and_(held.is_null(), paths.is_valid())
        some_are = bool(pyarrow.compute.any(alone).as_py())
        return cls(encoded, column, base, are_files, some_are)

    def __call__(self, index: int) -> Encoded:
        """An image file's content, or its path."""
        cell = self.table[index][self.column] or {"bytes": b""}
        if cell["bytes"] is not None:
            return cell["bytes"]
        return cell["path"] if self.base is None else str(self.base / cell["path"])


def _source(
    rows: Rows, labels: np.ndarray, fingerprint: str, title: str, folder: Path | None
) -> Source:
    describe, named = partial("{}, row {}".format, title), "row {}".format
    if rows.some_are and not rows.are_files:
        return Source(rows, labels, None, describe, named=named)  # read anew each time
    if not rows.are_files or folder is None:
        return Source(rows, labels, fingerprint, describe, named=named)
    paths = [str(rows(index)) for index in range(len(labels))]
    files = [listed(path, os.path.relpath(path, rows.base)) for path in paths]
    return Source(rows, labels, None, describe, files, folder, named)


PARQUET = TaskSource(load_parquet_sources, names=tuple(HUB))
