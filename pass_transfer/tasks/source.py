"""What a source of tasks is: undecoded images with labels, and the names that lead to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pass_transfer.tasks.decoding import Encoded
from pass_transfer.tasks.left_out import LeftOut
from pass_transfer.tasks.listing import ImageFile

# The split of images that are not sorted into splits: it is cut into all three.
UNSPLIT = "all"


@dataclass(frozen=True)
class Source:
    """Undecoded images with labels.

    Fields:
        fetch: image i's content, path or array. Where a large task is decoded by processes
            that are spawned, they get a pickled copy of it.
        labels: (N,) class numbers.
        fingerprint: names the content: the same source always has the same one. None where
            the images are `files`, whose own content is the name.
        describe: says in words which image i is, and where.
        files: the images' files, where each is one of its own.
        root: the folder that these files are in.
        named: what image i is called wherever the data lies; its number without it.
        left_out: what was found beside the images.
    """

    fetch: Callable[[int], Encoded]
    labels: np.ndarray
    fingerprint: str | None
    describe: Callable[[int], str]
    files: Sequence[ImageFile] = ()
    root: Path | None = None
    named: Callable[[int], str] = str
    left_out: tuple[LeftOut, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def short_name(self, index: int) -> str:
        """What image i is called in a list of what was left out."""
        return self.files[index].name if self.files else self.describe(index)


# Class names, and a source for each split that is given: "train", and perhaps "val" and
# "test"; or UNSPLIT alone.
Classes = Sequence[str]
Sources = Mapping[str, Source]


@dataclass(frozen=True)
class TaskSource:
    """Where the tasks of some names come from. The table of all of them is in registry.py.

    Fields:
        load: a name and the folder with its files (None: the usual place) to class names
            and sources. Raises TaskError where they cannot be had.
        names: the names that it knows one by one.
        prefix: begins further names, such as "folder:"; None where there are none.
        others: how a message describes those further names.
        mirrored: whether a mirrored image is as good as the image.
    """

    load: Callable[[str, str | Path | None], tuple[Classes, Sources]]
    names: tuple[str, ...] = ()
    prefix: str | None = None
    others: str = ""
    mirrored: bool = True

    def matches(self, name: str) -> bool:
        """Whether a task's name is one of this source's."""
        if name in self.names:
            return True
        return self.prefix is not None and name.startswith(self.prefix)
