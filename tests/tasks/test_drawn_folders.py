"""Drawn folders against a plain reading of docs/data.md, in a few lines.

DRAWN=2000 draws more of them.
"""

import os
import shutil
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pass_transfer.errors import TaskError
from pass_transfer.preprocessing import Preprocessing
from pass_transfer.tasks import load_task
from pass_transfer.tasks.folders import load_folder_sources
from pass_transfer.tasks.source import UNSPLIT
from pass_transfer.tasks.splits import decoded_splits
from tests.tasks.drawn_images import SIDE, image_files

EXAMPLES = int(os.environ.get("DRAWN", "100"))
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val"}
SPLITS |= {"validation": "val", "test": "test", "testing": "test"}
SYSTEM = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"}
SYSTEM |= {"system volume information", "lost+found", "__pycache__"}
IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".tif", ".heic", ".webp"}

CLASS_NAMES = ["cat", "dog", "Caf\u00e9", "Cafe\u0301", "train", "Val", "TEST"]
ODD_FOLDERS = [".cache", "__MACOSX", ".ipynb_checkpoints", "@eaDir", "__pycache__"]
STEMS = ["a", "b", "c d", "\u00fc", "Thumbs", "x.y", "IMG_1", ".hidden", "._b"]
ENDINGS = [".png", ".PNG", ".jpg", ".jpe", ".jfif", "", ".txt", ".dat", ".db", ".heic"]
TEXT = b"not an image, whatever it is called\n"


# what is drawn: a tree of names to (content, pixels), to folders, or to links


@st.composite
def files(draw):
    """A file: its content with the pixels seen, or None for damaged, or False for no image."""
    kind = draw(st.sampled_from(["image", "image", "image", "damaged", "text", "empty"]))
    if kind == "text":
        return TEXT, False
    if kind == "empty":
        return b"", False
    content, pixels = draw(image_files())
    if kind == "damaged":
        return content[:32] + b"\xff" * 40, None
    return content, pixels


@st.composite
def classes(draw, depth=1):
    """The content of a class folder."""
    inside = {}
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from(STEMS)) + draw(st.sampled_from(ENDINGS))
        inside[name] = draw(files())
    if depth and draw(st.integers(0, 2)) == 0:
        names = st.sampled_from([*ODD_FOLDERS, "more", "2024", "test"])
        inside[draw(names)] = draw(classes(depth - 1))
    links = ["/nowhere/a.png", ".", "..", "../..", "a.png", "more"]
    if draw(st.integers(0, 2)) == 0:
        inside[draw(st.sampled_from(["link", "link.png", "z.jpg"]))] = draw(st.sampled_from(links))
    return inside


@st.composite
def class_folders(draw):
    names = draw(st.lists(st.sampled_from(CLASS_NAMES[:4]), min_size=0, max_size=3, unique=True))
    inside = {name: draw(classes()) for name in names}
    if draw(st.integers(0, 3)) == 0:
        inside[draw(st.sampled_from(ODD_FOLDERS))] = draw(classes())
    if draw(st.integers(0, 4)) == 0:
        inside[draw(st.sampled_from(["readme.txt", "labels", "a.png"]))] = draw(files())
    return inside


@st.composite
def roots(draw):
    """A whole folder, with splits in any mixture."""
    inside = {}
    if draw(st.booleans()):
        names = [draw(st.sampled_from([n, n.title(), n.upper()])) for n in SPLITS]
        for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)):
            inside[name] = draw(st.one_of(class_folders(), class_folders(), classes()))
    if not inside or draw(st.integers(0, 3)) == 0:
        names = draw(st.lists(st.sampled_from(CLASS_NAMES), min_size=1, max_size=4, unique=True))
        inside |= {name: draw(classes()) for name in names if name not in inside}
    if draw(st.integers(0, 3)) == 0:
        inside[draw(st.sampled_from([*ODD_FOLDERS, "note.txt", "b.jpg"]))] = draw(files())
    return inside


def write(folder, inside, meaning):
    """Write a tree; `meaning` gets the pixels of every content."""
    folder.mkdir(parents=True)
    for name, what in inside.items():
        if isinstance(what, dict):
            write(folder / name, what, meaning)
        elif isinstance(what, str):
            (folder / name).symlink_to(what)
        else:
            (folder / name).write_bytes(what[0])
            meaning[what[0]] = what[1]


# the page on data, read plainly


class Refused(Exception):
    """The page says that such a folder is refused."""


def visible(path):
    return sorted(
        name for name in os.listdir(path) if not name.startswith(".") and name.lower() not in SYSTEM
    )


def inside(path, above):
    """Visible files and folders, with links followed unless they lead back."""
    found, folders = [], []
    for name in visible(path):
        child = os.path.join(path, name)
        if os.path.isdir(child):
            if os.path.realpath(child) not in above:
                folders.append((child, above | {os.path.realpath(child)}))
        elif os.path.isfile(child):
            found.append(child)
    return found, folders


def is_candidate(path, meaning):
    ending = os.path.splitext(path)[1].lower()
    return ending in IMAGE_ENDINGS or meaning[Path(path).read_bytes()] is not False


def images(path, above, meaning):
    """Images at any depth, each folder once, where it is nearest."""
    found, waiting, seen = [], [(path, above)], set(above)
    while waiting:
        files, folders = inside(*waiting.pop(0))
        found += [child for child in files if is_candidate(child, meaning)]
        for child, way in folders:
            if os.path.realpath(child) not in seen:
                seen.add(os.path.realpath(child))
                waiting.append((child, way))
    return found


def composed(path):
    return unicodedata.normalize("NFC", os.path.basename(path))


def plainly(root, meaning):
    """Class names, and pixels with labels by split."""
    start = {os.path.realpath(root)}
    _, top = inside(root, start)
    splits = {}
    named = [one for one in top if os.path.basename(one[0]).lower() in SPLITS]
    others = [one for one in top if one not in named]
    flat = [one for one in named if any(is_candidate(file, meaning) for file in inside(*one)[0])]
    found = [one for one in named if one not in flat and inside(*one)[1]]
    if found or not others:
        sorted_too = [one for one in flat if any(images(*c, meaning) for c in inside(*one)[1])]
        found += sorted_too
    if not found:
        if named and not others:
            raise Refused
        splits = {UNSPLIT: (root, start)}
    else:
        for one in found:
            split = SPLITS[os.path.basename(one[0]).lower()]
            if split in splits:
                raise Refused
            splits[split] = one
        if len(found) == 1 and any(images(*one, meaning) for one in others):
            raise Refused
        if "val" in splits and "train" in splits and "test" not in splits:
            splits["test"] = splits.pop("val")
    folders = {split: inside(*one)[1] for split, one in splits.items()}
    first = next((split for split in (UNSPLIT, "train") if split in folders), None)
    among = folders[first] if first else [one for part in folders.values() for one in part]
    names = sorted({composed(path) for path, _ in among})
    if not names:
        raise Refused
    read = {}
    for split, parts in folders.items():
        if not {composed(path) for path, _ in parts} <= set(names):
            raise Refused
        rows = []
        for label, name in enumerate(names):
            for path, above in parts:
                if composed(path) == name:
                    found = images(path, above, meaning)
                    found.sort(key=lambda file: file[len(root) + 1 :].split("/"))
                    rows += [(label, meaning[Path(file).read_bytes()]) for file in found]
        seen = [(label, pixels) for label, pixels in rows if isinstance(pixels, np.ndarray)]
        if not seen:
            raise Refused
        read[split] = (seen, len(rows) - len(seen))
    return names, read


def by_library(root):
    names, sources = load_folder_sources(f"folder:{root}", None)
    given = decoded_splits(f"folder:{root}", names, sources, Preprocessing(SIDE))
    return names, given


@settings(max_examples=EXAMPLES)
@given(roots())
def test_a_drawn_folder_is_read_as_the_page_on_data_says(tree):
    place, meaning = tempfile.mkdtemp(prefix="drawn-"), {}
    root = os.path.join(place, "photos")
    try:
        write(Path(root), tree, meaning)
        try:
            expected = plainly(root, meaning)
        except Refused:
            expected = None
        try:
            names, given = by_library(root)
        except TaskError as error:
            assert expected is None, error
            assert root in str(error)
            return
        assert expected is not None, (names, {k: len(v) for k, v in given.splits.items()})
        compare(expected, names, given)
        try:
            load_task(f"folder:{root}", SIDE)
        except TaskError as error:
            assert root in str(error)
    finally:
        shutil.rmtree(place)


def compare(expected, names, given):
    assert names == expected[0] and set(given.splits) == set(expected[1])
    damaged = 0
    for split, (rows, left) in expected[1].items():
        found = given.splits[split]
        assert found.labels.tolist() == [label for label, _ in rows]
        pixels = found.images.read(found.indices).permute(0, 2, 3, 1).numpy().astype(int)
        wanted = np.stack([pixels for _, pixels in rows]).astype(int)
        assert np.abs(pixels - wanted).max() <= 2
        damaged += left
    reasons = {part.reason: part.count for part in given.left_out}
    assert reasons.get("images that cannot be decoded", 0) == damaged
