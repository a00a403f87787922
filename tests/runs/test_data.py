"""A run refuses other images than it was begun with, and takes the same ones from anywhere."""

import os
import random
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pass_transfer.errors import RunError
from pass_transfer.files import write_json
from pass_transfer.runs.data import check_data, keep_data
from pass_transfer.tasks import load_task
from pass_transfer.tasks.record import DATA

EXAMPLES = int(os.environ.get("DRAWN", "10"))  # of each kind of change
SIDE = 8
WORDS = {"train": "train images", "test": "test images", "": "images"}


def paint(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIDE, SIDE), (number % 256, number // 256, 7)).save(path)


def make(root, splits):
    """Twelve images of each class, and of each split if there are some."""
    number = 0
    for split in splits:
        for name in ("cat", "dog"):
            for place in range(12):
                paint(root / split / name / f"{place:02}.png", number)
                number += 1


def load(root):
    return load_task(f"folder:{root}", SIDE)


def begin(root, run):
    """What adapt writes of a task's images when a run begins."""
    task = load(root)
    run.mkdir()
    write_json(run / "config.json", {"task": task.name, "data": task.record.fingerprints()})
    keep_data(run, task)


def exchange(one, other):
    aside = one.with_suffix(".aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def of_bmp(path):
    """The image as BMP under the same name, whose size never differs."""
    image = Image.open(path).copy()
    image.save(path, format="BMP")


CHANGES = {
    "exchange": ("2 with other content", lambda one, other: exchange(one, other)),
    "add": ("1 added", lambda one, other: paint(one.with_name("new.png"), 5000)),
    "remove": ("1 removed", lambda one, other: one.unlink()),
    "rename": ("1 renamed", lambda one, other: one.rename(one.with_name("other.png"))),
    "edit": ("1 with other content", lambda one, other: paint(one, 5001)),
}


def chosen(root, split, seed):
    """Two images of different classes in a split."""
    draw = random.Random(seed)
    places = [sorted((root / split / name).iterdir()) for name in ("cat", "dog")]
    return [draw.choice(files) for files in places]


@pytest.mark.parametrize("change", CHANGES)
@settings(max_examples=EXAMPLES)
@given(seed=st.integers(0, 10_000), split=st.sampled_from(["train", "test", ""]))
def test_one_changed_image_is_refused_with_split_and_count(tmp_path_factory, change, seed, split):
    place = tmp_path_factory.mktemp("drawn")
    root, run = place / "photos", place / "run"
    make(root, [split] if split == "" else ["train", "test"])
    begin(root, run)
    count, work = CHANGES[change]
    work(*chosen(root, split, seed))
    with pytest.raises(RunError) as refused:
        check_data(run, load(root))
    said = str(refused.value)
    assert str(run) in said and f"{WORDS[split]}: {count}" in said and "force" in said
    assert said.count(" then)") == 1  # no other split is named


@pytest.mark.parametrize("move", ["rename", "copy", "link"])
@settings(max_examples=EXAMPLES)
@given(split=st.sampled_from(["train", ""]), seed=st.integers(0, 10_000))
def test_moved_and_copied_images_are_accepted(tmp_path_factory, move, split, seed):
    place = tmp_path_factory.mktemp("drawn")
    root, run = place / "photos", place / "run"
    make(root, [split] if split == "" else ["train", "test"])
    begin(root, run)
    target = place / f"elsewhere{seed}"
    if move == "rename":
        root.rename(target)
    elif move == "copy":
        shutil.copytree(root, target)
        shutil.rmtree(root)
    else:
        target.symlink_to(root)
    check_data(run, load(target))


def test_an_edit_that_hides_itself_is_seen(tmp_path):
    root, run = tmp_path / "photos", tmp_path / "run"
    make(root, [""])
    for path in root.rglob("*.png"):
        of_bmp(path)
    load(root)
    begin(root, run)
    path = root / "cat" / "03.png"
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(RunError, match="images: 1 with other content"):
        check_data(run, load(root))


def test_what_is_no_image_may_come_and_go(tmp_path):
    root, run = tmp_path / "photos", tmp_path / "run"
    make(root, [""])
    begin(root, run)
    (root / "cat" / "notes.txt").write_text("mine")
    (root / "cat" / ".DS_Store").write_bytes(b"x")
    (root / "cat" / "damaged.png").write_bytes(b"x")
    check_data(run, load(root))


def test_other_images_are_refused_also_where_their_list_is_gone(tmp_path):
    root, run = tmp_path / "photos", tmp_path / "run"
    make(root, ["train", "test"])
    begin(root, run)
    (run / DATA).unlink()
    check_data(run, load(root))
    (root / "test" / "cat" / "00.png").unlink()
    with pytest.raises(RunError, match="'test': 23}, then {'train': 24, 'test': 24}"):
        check_data(run, load(root))


def test_a_run_that_kept_no_fingerprint_is_compared_by_its_task(tmp_path):
    root, run = tmp_path / "photos", tmp_path / "run"
    make(root, [""])
    run.mkdir()
    write_json(run / "config.json", {"task": f"folder:{root}"})
    check_data(run, load(root))
    write_json(run / "config.json", {"task": "cifar100"})
    with pytest.raises(RunError, match="cifar100"):
        check_data(run, load(root))


def test_nothing_is_refused_where_no_run_is(tmp_path):
    make(tmp_path / "photos", [""])
    check_data(tmp_path / "run", load(tmp_path / "photos"))


def test_the_hashes_that_a_run_keeps_are_of_names_and_contents(tmp_path):
    root = tmp_path / "photos"
    make(root, [""])
    task = load(root)
    assert np.unique(task.record.learned).size == 20
    assert set(task.record.splits) == {"all"}


def test_names_that_macos_decomposed_are_the_same(tmp_path):
    root, run = tmp_path / "photos", tmp_path / "run"
    make(root, [""])
    (root / "cat").rename(root / "d\u00f6g")
    begin(root, run)
    (root / "d\u00f6g").rename(root / "do\u0308g")
    check_data(run, load(root))
