"""A new source of tasks is a function that loads it and a line in the table."""

import numpy as np
import pytest

from pass_transfer.errors import UsageError
from pass_transfer.tasks import load_task, registry, task_names
from pass_transfer.tasks.registry import check_name
from pass_transfer.tasks.source import Source, TaskSource


def load_stripes(name, data_dir):
    """Upright and lying stripes: "stripes", or "stripes:COUNT" images in each split."""
    count = int(name.removeprefix("stripes:")) if ":" in name else 40
    upright = np.tile(np.array([0, 255], np.uint8), (8, 4))
    labels = np.arange(count) % 2

    def fetch(index):
        return upright.T if labels[index] else upright

    splits = ("train", "test")
    sources = {split: Source(fetch, labels, f"{name} {split}", str) for split in splits}
    return ["upright", "lying"], sources


STRIPES = TaskSource(
    load_stripes, names=("stripes",), prefix="stripes:", others="stripes:COUNT", mirrored=False
)


@pytest.fixture
def stripes(monkeypatch):
    monkeypatch.setattr(registry, "SOURCES", (*registry.SOURCES, STRIPES))


@pytest.mark.parametrize("name, count", [("stripes", 40), ("stripes:60", 60)])
def test_a_source_serves_its_names(stripes, name, count):
    task = load_task(name, 8)
    assert task.name == name and task.class_names == ("upright", "lying")
    assert len(task.train) + len(task.held_out) == len(task.test) == count
    assert not task.mirrored
    images, labels = task.test.__getitems__([0, 1])
    assert labels.tolist() == [0, 1]
    assert images[0, 0, 0, :4].tolist() == images[1, 0, :4, 0].tolist() == [0, 255, 0, 255]


def test_a_source_is_named_where_names_are_listed_and_checked(stripes):
    assert task_names()[-1] == "stripes"
    check_name("stripes:6")
    with pytest.raises(UsageError, match="Did you mean stripes.*folder:PATH.* or stripes:COUNT"):
        load_task("strips", 8)


def test_without_the_line_the_names_are_unknown():
    with pytest.raises(UsageError, match="unknown task 'stripes:6'"):
        check_name("stripes:6")
