"""From a task's sources to three splits: decode, leave out what is damaged, cut what is missing.

What is cut depends on the labels alone, so that the splits are the same in every run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pass_transfer.errors import TaskError
from pass_transfer.preprocessing import Preprocessing
from pass_transfer.tasks.images import OpenedImages, open_images
from pass_transfer.tasks.left_out import LeftOut, together
from pass_transfer.tasks.record import SplitRecord, short_hashes
from pass_transfer.tasks.source import UNSPLIT, Source
from pass_transfer.tasks.task import Split, cut_share

HELD_OUT_SHARE = 0.1
HELD_OUT_MOST = 5000  # images: they resolve half a point of accuracy; more would cost training data
TEST_SHARE = 0.2  # of a folder without splits: enough to measure by, most is left to learn from


@dataclass(frozen=True)
class GivenSplits:
    """The splits as they are given, decoded.

    Fields:
        splits: by name; UNSPLIT alone where the images are not sorted into splits.
        opened: what was found of each source.
        records: which images they are.
        left_out: of all sources, by reason.
    """

    splits: dict[str, Split]
    opened: dict[str, OpenedImages]
    records: dict[str, SplitRecord]
    left_out: tuple[LeftOut, ...]

    def opened_of(self, split: Split) -> OpenedImages:
        """What a split, or a part of one, was taken from."""
        return next(one for one in self.opened.values() if one.images is split.images)

    @property
    def treated(self) -> dict[str, int]:
        """How many images needed what decoding.py calls TURNED, TRANSPARENT, DEEP or LONG."""
        total: Counter[str] = Counter()
        for one in self.opened.values():
            total.update(one.treated)
        return dict(total)


def decoded_splits(
    name: str,
    names: Sequence[str],
    sources: Mapping[str, Source],
    preprocessing: Preprocessing,
) -> GivenSplits:
    """Every source as a network sees it. Raises TaskError for one without a readable image."""
    splits, opened, records = {}, {}, {}
    left_out: list[LeftOut] = []
    for key, source in sources.items():
        one = open_images(source, preprocessing, name if key == UNSPLIT else f"{name} {key}")
        left_out += [*source.left_out, *one.left_out]
        if len(one.good) == 0:
            where = "" if key == UNSPLIT else f"the {key} split has "
            raise TaskError(f"{name}: {where}no readable image; {_words(left_out)}")
        splits[key], opened[key] = Split(one.images, one.good, source.labels[one.good]), one
        good, labels = one.good.tolist(), splits[key].labels.tolist()
        called = [f"{names[label]}/{source.named(i)}" for i, label in zip(good, labels)]
        records[key] = SplitRecord.of(names, called, one.content[one.good])
    return GivenSplits(splits, opened, records, together(left_out))


def _words(left_out: Sequence[LeftOut]) -> str:
    found = [f"{part.reason}: {part.count}" for part in together(left_out)]
    return "; ".join(found) or "there is none"


def contents(split: Split, opened: OpenedImages) -> np.ndarray:
    """Short hashes (N,) int64 of the content of a split's images."""
    return short_hashes(opened.content[split.indices])


def check_classes(name: str, names: Sequence[str], train: Split) -> None:
    """Raise TaskError for a class without a training image."""
    counts = np.bincount(train.labels, minlength=len(names))
    for label, count in enumerate(counts):
        if count == 0:
            raise TaskError(f"{name}: the class {names[label]!r} has no readable training image")


def with_all_splits(
    name: str, names: Sequence[str], splits: Mapping[str, Split]
) -> dict[str, Split]:
    """Train, val and test: what is missing is cut from train, or from images in no split.

    Raises TaskError for a class with too few images.
    """
    splits = dict(splits)
    if UNSPLIT in splits:
        splits["train"] = splits.pop(UNSPLIT)
    try:
        if "test" not in splits:
            splits["train"], splits["test"] = cut_test(splits["train"], names)
        if "val" not in splits:
            train = splits["train"]
            kept, held_out = hold_out(train.labels, names)
            splits["train"], splits["val"] = train.subset(kept), train.subset(held_out)
    except TaskError as error:
        raise TaskError(f"{name}: {error}") from None
    return splits


def cut_test(split: Split, names: Sequence[str]) -> tuple[Split, Split]:
    """The split without its test images, and these: a share of each class.

    Raises TaskError for a class with too few images.
    """
    counts = np.bincount(split.labels, minlength=len(names))
    for label, count in enumerate(counts):
        if count < 3:
            raise TaskError(
                f"the class {names[label]!r} has {count} image(s); a folder without a test split "
                "needs at least 3 in every class: one to train on, one to select by, one to test on"
            )
    rest, test = cut_share(split.labels, len(names), TEST_SHARE)
    return split.subset(rest), split.subset(test)


def hold_out(labels: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Split positions into (train, held out): a tenth of each class, 5,000 images at most.

    The choice depends on the labels alone. Every class keeps at least one image on
    both sides; raises TaskError for a class with fewer than two.
    """
    counts = np.bincount(labels, minlength=len(names))
    smallest = int(counts.argmin())
    if counts[smallest] < 2:
        raise TaskError(
            f"the class {names[smallest]!r} has {counts[smallest]} training image(s); "
            "every class needs at least 2, one to train on and one to select by"
        )
    share = min(HELD_OUT_SHARE, HELD_OUT_MOST / len(labels))
    return cut_share(labels, len(names), share)
