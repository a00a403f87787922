import shutil

import numpy as np
import pytest
from PIL import Image

from pass_transfer.errors import TaskError, UsageError
from pass_transfer.tasks import images as tasks_images
from pass_transfer.tasks import load_task
from pass_transfer.training.batches import batches

SIZE = 8


def paint(number: int) -> Image.Image:
    """An image of one colour that no other number has."""
    return Image.new("RGB", (SIZE, SIZE), (number % 256, number // 256, 77))


def number_of(image) -> int:
    return int(image[0, 0, 0]) + 256 * int(image[1, 0, 0])


@pytest.fixture
def make(tmp_path):
    """make({"cat": 12, "train/cat": 5, ...}) -> root; every image has a number of its own."""
    painted = iter(range(10_000))

    def write(counts: dict[str, int], root=tmp_path / "photos"):
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for n in range(count):
                paint(next(painted)).save(root / folder / f"{n:03}.png")
        return root

    return write


def numbers(split) -> list[int]:
    images, _ = split.__getitems__(range(len(split)))
    return sorted(number_of(i) for i in images)


def split_numbers(task) -> list[list[int]]:
    return [numbers(split) for split in (task.train, task.held_out, task.test)]


def all_numbers(task) -> list[int]:
    return sorted(sum(split_numbers(task), []))


def load(root, size: int = SIZE):
    return load_task(f"folder:{root}", size)


def test_a_folder_of_classes_is_split_in_three_without_overlap(make):
    task = load(make({"cat": 20, "dog": 20, "eel": 10}))
    assert task.class_names == ("cat", "dog", "eel")
    assert all_numbers(task) == list(range(50))
    assert [int((task.test.labels == c).sum()) for c in range(3)] == [4, 4, 2]
    assert set(task.held_out.labels) == set(task.train.labels) == {0, 1, 2}


def test_labels_follow_the_folders(make):
    task = load(make({"cat": 20, "dog": 20}))
    for split in (task.train, task.held_out, task.test):
        images, labels = split.__getitems__(range(len(split)))
        assert [number_of(i) >= 20 for i in images] == labels.bool().tolist()


def test_the_split_is_the_same_every_time(make):
    root = make({"cat": 20, "dog": 20})
    assert split_numbers(load(root)) == split_numbers(load(root, 2 * SIZE))


@pytest.mark.parametrize("names", [("train", "val", "test"), ("training", "validation", "testing")])
def test_given_splits_are_used_as_they_are(make, names):
    train, val, test = names
    folders = {f"{train}/cat": 4, f"{train}/dog": 4}
    folders |= {f"{val}/cat": 2, f"{val}/dog": 2}
    folders |= {f"{test}/cat": 3, f"{test}/dog": 3}
    task = load(make(folders))
    assert numbers(task.train) == list(range(8))
    assert numbers(task.held_out) == list(range(8, 12))
    assert numbers(task.test) == list(range(12, 18))


def test_without_a_test_folder_val_is_the_test(make):
    task = load(make({"train/cat": 20, "train/dog": 20, "val/cat": 3, "val/dog": 3}))
    assert numbers(task.test) == list(range(40, 46))
    assert sorted(numbers(task.train) + numbers(task.held_out)) == list(range(40))
    assert len(task.held_out) == 4


def test_without_a_val_folder_a_part_of_train_is_held_out(make):
    task = load(make({"train/cat": 20, "train/dog": 20, "test/cat": 3, "test/dog": 3}))
    assert numbers(task.test) == list(range(40, 46)) and len(task.held_out) == 4
    assert not set(numbers(task.train)) & set(numbers(task.held_out))


def test_three_images_of_a_class_are_enough(make):
    task = load(make({"cat": 3, "dog": 3}))
    assert [len(s) for s in (task.train, task.held_out, task.test)] == [2, 2, 2]


def test_damaged_images_are_skipped_counted_and_named(make, capsys):
    root = make({"cat": 10, "dog": 10})
    (root / "cat" / "000.png").write_bytes(b"not an image")
    (root / "dog" / "001.png").write_bytes((root / "dog" / "001.png").read_bytes()[:40])
    (root / "dog" / "002.png").write_bytes(b"")
    task = load(root)
    assert task.skipped == 3
    assert all_numbers(task) == sorted(set(range(20)) - {0, 11, 12})
    told = capsys.readouterr().err
    assert "cannot be decoded, left out: 3 (cat/000.png, dog/001.png, dog/002.png)" in told


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "webp", "tif", "ppm"])
def test_whatever_is_damaged_in_an_image_it_is_skipped(make, ending):
    root = make({"cat": 4, "dog": 4})
    draw = np.random.default_rng(0)
    picture = Image.fromarray(draw.integers(0, 256, (SIZE, SIZE, 3), np.uint8))
    picture.save(root / "cat" / f"whole.{ending}")
    whole = (root / "cat" / f"whole.{ending}").read_bytes()
    for n in range(60):
        damaged = bytearray(whole[: draw.integers(1, len(whole))] if n % 2 else whole)
        damaged[draw.integers(len(damaged))] ^= draw.integers(1, 256)
        (root / "cat" / f"damaged{n}.{ending}").write_bytes(damaged)
    task = load(root)
    assert len(task.train) + len(task.held_out) + len(task.test) + task.skipped == 69


def test_an_image_too_large_to_be_one_is_skipped(make, monkeypatch):
    root = make({"cat": 4, "dog": 4})
    Image.new("L", (100, 100)).save(root / "cat" / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert load(root).skipped == 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "I;16", "LA"])
def test_images_of_every_kind_become_rgb(make, mode):
    root = make({"cat": 4, "dog": 4})
    Image.new(mode, (20, 30)).save(root / "cat" / ("x.tif" if mode == "CMYK" else "x.png"))
    task = load(root)
    assert task.skipped == 0
    assert task.test.__getitems__([0])[0].shape == (1, 3, SIZE, SIZE)


def test_hidden_folders_and_other_files_are_no_classes(make):
    root = make({"cat": 4, "dog": 4, ".cache": 4})
    (root / "README.md").write_text("mine")
    (root / "cat" / "notes.txt").write_text("mine")
    task = load(root)
    assert task.class_names == ("cat", "dog") and task.skipped == 0


@pytest.mark.parametrize(
    "counts, why",
    [
        ({}, "no class folders"),
        ({"cat": 9}, "at least two"),
        ({"cat": 9, "dog": 0}, "'dog' has no readable"),
        ({"cat": 0, "dog": 0}, "no image files"),
        ({"cat": 9, "dog": 2}, "at least 3"),
        ({"train/cat": 9, "train/dog": 9, "test/cat": 3, "test/eel": 3}, "eel"),
        ({"train/cat": 9, "train/dog": 9, "test/cat": 0}, "no image files"),
        ({"train/cat": 9, "train/dog": 1, "test/cat": 3}, "at least 2"),
        ({"val/cat": 9, "test/cat": 9}, "train"),
    ],
)
def test_folders_that_make_no_task_are_refused(make, tmp_path, counts, why):
    (tmp_path / "photos").mkdir()
    with pytest.raises(TaskError, match=why):
        load(make(counts))


def test_a_class_of_damaged_images_is_refused(make):
    root = make({"cat": 9, "dog": 9})
    for path in (root / "dog").iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(TaskError, match="'dog' has no readable"):
        load(root)


def test_a_missing_folder_or_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("nothing", "file"):
        with pytest.raises(TaskError, match=name):
            load(tmp_path / name)


def test_a_second_folder_beside_it_is_refused(make, tmp_path):
    with pytest.raises(UsageError, match="data_dir is .*is a folder itself"):
        load_task(f"folder:{make({'cat': 9, 'dog': 9})}", SIZE, tmp_path)


def test_a_stray_image_in_a_split_folder_is_counted_and_the_split_stays(make):
    root = make({"train/cat": 9, "train/dog": 9, "test/cat": 3, "test/dog": 3})
    for split in ("train", "test"):
        paint(9000).save(root / split / "contact.png")
        (root / split / "README").write_text("Python, BM and P1 are how texts may begin")
    paint(9001).save(root / "top.png")
    task = load(root)
    assert len(task.test) == 6 and len(task.train) + len(task.held_out) == 18
    left = {part.reason: part.count for part in task.overview.left_out}
    assert left == {"images outside the class folders": 3, "files that are no images": 2}


def test_a_folder_that_many_links_lead_to_is_read_once(make):
    names = [f"class{n}" for n in range(8)]
    root = make({name: 4 for name in names})
    for name in names:
        for other in names:
            if other != name:
                (root / name / f"to {other}").symlink_to(root / other)
    task = load(root)
    assert len(task.train) + len(task.held_out) + len(task.test) == 8 * 8 * 4


def test_texts_that_begin_like_images_are_none(make):
    root = make({"cat": 4, "dog": 4})
    for name in ("BM", "P1, a list", "Python", "Pf"):
        (root / "cat" / name).write_text(f"{name} and more of it, and more")
    assert load(root).skipped == 0


@pytest.mark.parametrize("name", ["folder:", "folder:~nosuchuser/x"])
def test_paths_that_lead_nowhere_are_refused(name):
    with pytest.raises(UsageError):
        load_task(name, SIZE)


def test_a_name_that_no_system_takes_is_refused():
    with pytest.raises(TaskError, match="is not a folder"):
        load_task("folder:" + "x" * 300, SIZE)


# the cache


def test_a_second_load_decodes_nothing(make, decoded):
    root = make({"cat": 10, "dog": 10})
    (root / "cat" / "000.png").write_bytes(b"damaged")
    first = load(root)
    assert len(decoded) == 20
    second = load(root)
    assert len(decoded) == 20
    assert second.skipped == first.skipped == 1 and numbers(second.test) == numbers(first.test)


def test_a_changed_image_or_another_size_is_decoded_again(make, decoded):
    root = make({"cat": 10, "dog": 10})
    load(root)
    paint(9999).resize((5, 5)).save(root / "cat" / "003.png")
    task = load(root)
    assert len(decoded) == 40
    assert 9999 in all_numbers(task)
    load(root, SIZE + 1)
    assert len(decoded) == 60


def test_a_cache_folder_that_cannot_be_written_is_no_obstacle(make, monkeypatch, tmp_path):
    root = make({"cat": 10, "dog": 10})
    expected = numbers(load(root).test)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PASS_TRANSFER_CACHE", str(tmp_path / "file" / "cache"))
    assert numbers(load(root).test) == expected


def test_a_damaged_cache_is_made_again(make, monkeypatch, tmp_path):
    root = make({"cat": 10, "dog": 10})
    monkeypatch.setenv("PASS_TRANSFER_CACHE", str(tmp_path / "own"))
    expected = numbers(load(root).test)
    kept = [path for path in (tmp_path / "own").rglob("*") if path.is_file()]
    assert len(kept) == 4
    for path in kept:
        path.write_bytes(path.read_bytes()[:7])
    assert numbers(load(root).test) == expected


def test_a_task_too_large_for_the_cache_is_decoded_on_the_way(make, monkeypatch):
    root = make({"cat": 10, "dog": 10})
    (root / "cat" / "000.png").write_bytes(b"damaged")
    cached = load(root)
    monkeypatch.setattr(tasks_images, "CACHE_LIMIT", 100)
    streamed = load(root)
    assert streamed.skipped == 1
    assert split_numbers(cached) == split_numbers(streamed)
    shutil.rmtree(root)
    with pytest.raises(TaskError, match="no longer"):
        list(batches(streamed.test, 2))
