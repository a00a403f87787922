"""Tasks too large for the cache: decoded on the way, by processes, with images that go bad."""

import multiprocessing
import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image

from pass_transfer.errors import TaskError
from pass_transfer.tasks import images as tasks_images
from pass_transfer.tasks import load_task
from pass_transfer.training import choose_runtime
from pass_transfer.training.batches import batches
from pass_transfer.training.evaluate import evaluate

SIDE = 8


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("PASS_TRANSFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tasks_images, "CACHE_LIMIT", 100)
    number = 0
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for place in range(20):
            image = Image.new("RGB", (SIDE, SIDE), (number, 5, 7))
            image.save(tmp_path / "photos" / name / f"{place:02}.jpg", quality=95)
            number += 1
    return tmp_path / "photos"


def load(root):
    return load_task(f"folder:{root}", SIDE)


def cut_short(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def paths_of(split):
    return [split.images.source.describe(int(i)) for i in split.indices]


def test_an_image_cut_short_is_found_before_anything_is_trained(root):
    cut_short(root / "cat" / "03.jpg")
    task = load(root)
    assert task.skipped == 1 and len(task.train) + len(task.held_out) + len(task.test) == 39


def test_that_check_is_made_once(root, monkeypatch):
    cut_short(root / "cat" / "03.jpg")
    load(root)
    seen = []
    monkeypatch.setattr(tasks_images, "picture", lambda content, *how: seen.append(content))
    assert load(root).skipped == 1 and seen == []


def test_an_image_that_goes_bad_in_an_epoch_is_skipped_and_counted(root, capfd):
    task = load(root)
    bad = paths_of(task.train)[4]
    with open(bad, "wb") as file:
        file.write(b"damaged")
    for _ in range(2):
        count = sum(len(labels) for _, labels in batches(task.train, 8))
        assert count == len(task.train) - 1
    assert task.skipped == 1 and bad in capfd.readouterr().err


def test_accuracy_counts_what_could_be_read(root):
    task = load(root)
    with open(paths_of(task.test)[0], "wb") as file:
        file.write(b"damaged")

    def network(images):
        return torch.stack([1 - images[:, 0].mean((1, 2)), images[:, 0].mean((1, 2))], 1)

    found = evaluate(network, task.test, choose_runtime("cpu", "no"))
    assert found.images == len(task.test) - 1
    assert found.predictions.tolist()[0] == -1 and (found.predictions[1:] >= 0).all()
    assert found.top1 == pytest.approx(100 * 3 / 7)  # the dark ones are cats, and nearly all are


def test_where_nothing_can_be_read_any_more_it_is_an_error(root):
    task = load(root)
    shutil.rmtree(root)
    with pytest.raises(TaskError, match="can no longer be read"):
        list(batches(task.test, 4))


def test_a_batch_of_which_nothing_is_left_is_passed_over(root):
    task = load(root)
    for path in paths_of(task.test)[:2]:
        with open(path, "wb") as file:
            file.write(b"damaged")
    assert [len(labels) for _, labels in batches(task.test, 2)] == [2, 2, 2]


SPAWNED = """
import multiprocessing, sys
from pass_transfer.tasks import images, load_task
from pass_transfer.training.batches import batches
if __name__ == "__main__":
    images.CACHE_LIMIT = 100
    multiprocessing.set_start_method(sys.argv[1])
    task = load_task("folder:" + sys.argv[2], 8)
    print(sum(len(labels) for _, labels in batches(task.train, 8)))
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_may_be_spawned(root, tmp_path, method):
    assert method in multiprocessing.get_all_start_methods()
    script = tmp_path / "count.py"
    script.write_text(SPAWNED)
    command = [sys.executable, str(script), method, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "28"
