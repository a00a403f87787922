"""What a source of tasks is: undecoded images with labels, and the names that lead to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# An image file's content, its path, or an (H, W) or (H, W, 3) uint8 array.
Encoded = bytes | str | np.ndarray


@dataclass(frozen=True)
class Source:
    """Undecoded images with labels. `fetch(i)` gives image i's content, path or array.

    `fingerprint` names the content: the same source always has the same one.
    `describe(i)` says in words which image i is.
    """

    fetch: Callable[[int], Encoded]
    labels: np.ndarray
    fingerprint: str
    describe: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.labels)


# Class names, and a source for each split that is given: "train", and perhaps "val" and "test".
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
