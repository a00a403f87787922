"""The images that a finished network is evaluated on."""

import numpy as np
import pytest
from PIL import Image

from pass_transfer.errors import TaskError
from pass_transfer.tasks import load_task
from pass_transfer.tasks.labelled import load_labelled
from pass_transfer.tasks.record import read_data

SIDE = 8


def make(root, counts, first=0):
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for _place in range(count):
            image = Image.new("RGB", (SIDE, SIDE), (first % 256, first // 256, 7))
            image.save(root / folder / f"{first:04}.png")
            first += 1
    return f"folder:{root}"


def labelled(task, names=("cat", "dog"), data=None):
    return load_labelled(task, SIDE, names, None, data)


def test_new_images_without_splits_are_all_taken(tmp_path):
    found = labelled(make(tmp_path / "new", {"cat": 5, "dog": 4}))
    assert len(found.split) == 9 and found.which == "images" and found.warnings() == []
    assert found.split.labels.tolist() == [0] * 5 + [1] * 4


@pytest.mark.parametrize(
    "counts, which, count",
    [
        ({"test/cat": 3, "test/dog": 2}, "test images", 5),
        ({"train/cat": 9, "train/dog": 9, "test/cat": 3}, "test images", 3),
        ({"train/cat": 9, "train/dog": 9, "val/dog": 4}, "test images", 4),
        ({"val/cat": 2, "val/dog": 2}, "val images", 4),
        ({"cat": 1}, "images", 1),
    ],
)
def test_test_images_are_taken_where_there_are_some(tmp_path, counts, which, count):
    found = labelled(make(tmp_path / "new", counts))
    assert found.which == which and len(found.split) == count


def test_the_folder_that_a_network_was_made_from_gives_its_test_part_again(tmp_path):
    name = make(tmp_path / "photos", {"cat": 20, "dog": 20})
    task = load_task(name, SIDE)
    task.record.save(tmp_path)
    found = labelled(name, data=read_data(tmp_path))
    assert found.which == "test images" and found.learned == 0
    assert np.array_equal(found.split.indices, task.test.indices)
    (tmp_path / "photos").rename(tmp_path / "moved")
    assert len(labelled(f"folder:{tmp_path / 'moved'}", data=read_data(tmp_path)).split) == 8


def test_images_that_were_trained_on_are_counted(tmp_path):
    name = make(tmp_path / "photos", {"cat": 20, "dog": 20})
    load_task(name, SIDE).record.save(tmp_path)
    make(tmp_path / "photos", {"cat": 5}, first=500)
    found = labelled(name, data=read_data(tmp_path))
    assert len(found.split) == 45 and found.learned == 32
    assert "32 of the 45 images were used to train" in found.warnings()[0]


def test_classes_are_matched_by_name(tmp_path):
    found = labelled(make(tmp_path / "new", {"dog": 2, "eel": 1}), names=("eel", "cat", "dog"))
    assert found.split.labels.tolist() == [2, 2, 0] and found.missing == ("cat",)
    assert "1 of the classes: cat" in found.warnings()[0]


def test_classes_that_the_network_does_not_know_are_named(tmp_path):
    with pytest.raises(TaskError, match="not made for: ape, eel. It knows 2: cat, dog"):
        labelled(make(tmp_path / "new", {"cat": 2, "eel": 1, "ape": 1}))


def test_a_part_is_only_cut_where_the_network_had_it_cut(tmp_path):
    counts = {"train/cat": 20, "train/dog": 20, "test/cat": 3, "test/dog": 3}
    load_task(make(tmp_path / "photos", counts), SIDE).record.save(tmp_path)
    make(tmp_path / "alone", {"train/cat": 20, "train/dog": 20})
    found = labelled(f"folder:{tmp_path / 'alone'}", data=read_data(tmp_path))
    assert found.which == "images" and len(found.split) == 40 and found.learned == 40
