"""From a task's sources to three splits: decode, leave out what is damaged, cut what is missing.

What is cut depends on the labels alone, so that the splits are the same in every run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pass_transfer.errors import TaskError
from pass_transfer.progress import say
from pass_transfer.tasks.images import open_images
from pass_transfer.tasks.source import Source
from pass_transfer.tasks.task import Split, cut_share

HELD_OUT_SHARE = 0.1
HELD_OUT_MOST = 5000  # images: they resolve half a point of accuracy; more would cost training data
TEST_SHARE = 0.2  # of a folder without splits: enough to measure by, most is left to learn from


def decoded_splits(
    name: str, names: Sequence[str], sources: Mapping[str, Source], size: int
) -> tuple[dict[str, Split], int]:
    """The splits that are given, and how many images could not be decoded.

    Raises TaskError for a split without images, or a class without a training image.
    """
    splits, skipped = {}, 0
    for key, source in sources.items():
        images, good, bad = open_images(source, size, f"{name} {key}")
        if bad:
            _warn(source, key, bad)
        skipped += len(bad)
        splits[key] = Split(images, good, source.labels[good])
        if key == "train":
            _check_classes(name, names, splits[key])
        if len(good) == 0:
            raise TaskError(f"{name}: the {key} split has no readable image")
    return splits, skipped


def _warn(source: Source, key: str, bad: Sequence[int]) -> None:
    shown = ", ".join(source.describe(index) for index in bad[:3])
    more = " ..." if len(bad) > 3 else ""
    say(
        f"warning: {len(bad)} of {len(source)} {key} images cannot be decoded and are skipped: "
        f"{shown}{more}"
    )


def _check_classes(name: str, names: Sequence[str], train: Split) -> None:
    counts = np.bincount(train.labels, minlength=len(names))
    for label, count in enumerate(counts):
        if count == 0:
            raise TaskError(f"{name}: the class {names[label]!r} has no readable training image")


def with_all_splits(
    name: str, names: Sequence[str], splits: Mapping[str, Split]
) -> dict[str, Split]:
    """The splits, with a test split and held-out images cut from train where they are missing.

    Raises TaskError for a class with too few images.
    """
    splits = dict(splits)
    if "test" not in splits:
        splits["train"], splits["test"] = _cut_test(splits["train"], names)
    if "val" not in splits:
        train = splits["train"]
        try:
            kept, held_out = hold_out(train.labels, names)
        except TaskError as error:
            raise TaskError(f"{name}: {error}") from None
        splits["train"], splits["val"] = train.subset(kept), train.subset(held_out)
    return splits


def _cut_test(split: Split, names: Sequence[str]) -> tuple[Split, Split]:
    """The split without its test images, and these: a share of each class."""
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
