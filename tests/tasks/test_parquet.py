import io

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from pass_transfer.errors import TaskError, UsageError
from pass_transfer.tasks import load_task, task_names

NAMES = ["apple", "bear", "cup"]
COUNT = 30


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 5, 9)).save(file, "PNG")
    return file.getvalue()


def image_cells(first: int) -> list[dict]:
    return [{"bytes": png(first + n), "path": None} for n in range(COUNT)]


def write(
    folder,
    split: str,
    first: int,
    image: str = "image",
    label: str = "label",
    names=NAMES,
    cells=None,
    parts: int = 1,
    **columns,
):
    """Parquet files as the hub has them: image structs, labels with class names.

    Row n is an image of number first + n.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if cells is None:
        cells = image_cells(first)
    kind = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    features = {image: datasets.Image(), label: kind} | {
        name: datasets.Value("int64") for name in columns
    }
    rows = {image: cells, label: [n % 3 for n in range(len(cells))]} | columns
    table = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    for part in range(parts):
        table.shard(parts, part, contiguous=True).to_parquet(
            folder / f"{split}-{part:05}-of-{parts:05}.parquet"
        )
    return folder


def numbers(split) -> list[int]:
    images, _ = split.__getitems__(range(len(split)))
    return images[:, 0, 0, 0].tolist()


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "data", "train", 0, parts=3)
    return write(tmp_path / "data", "valid", 100)


def test_a_task_is_read_from_the_hubs_parquet_files(folder):
    task = load_task("tiny-imagenet", 8, folder)
    assert task.class_names == tuple(NAMES)
    assert numbers(task.test) == list(range(100, 130))
    assert task.test.labels.tolist() == [n % 3 for n in range(30)]
    assert sorted(numbers(task.train) + numbers(task.held_out)) == list(range(30))
    for split in (task.train, task.held_out):
        assert [n % 3 for n in numbers(split)] == split.labels.tolist()


def test_the_columns_of_cifar100_are_understood_and_the_fine_labels_used(tmp_path):
    for split, first in (("train", 0), ("test", 100)):
        write(tmp_path, split, first, image="img", label="fine_label", coarse_label=[1] * COUNT)
    task = load_task("cifar100", 8, tmp_path)
    assert task.class_names == tuple(NAMES)
    assert task.test.labels.tolist() == [n % 3 for n in range(30)]


def test_labels_without_names_are_numbered(tmp_path):
    for split in ("train", "test"):
        write(tmp_path, split, 0, names=None)
    assert load_task("cifar10", 8, tmp_path).class_names == ("0", "1", "2")


def test_files_may_lie_in_a_folder_below(tmp_path):
    write(tmp_path / "data", "train", 0)
    write(tmp_path / "data", "test", 100)
    assert numbers(load_task("dtd", 8, tmp_path).test) == list(range(100, 130))


def test_no_image_is_in_two_splits_and_the_split_is_the_same_every_time(folder):
    first, second = load_task("tiny-imagenet", 8, folder), load_task("tiny-imagenet", 16, folder)
    assert numbers(first.train) == numbers(second.train)
    assert numbers(first.held_out) == numbers(second.held_out)
    assert not set(numbers(first.train)) & set(numbers(first.held_out))


def test_other_content_at_the_same_place_is_another_task(tmp_path):
    for first in (0, 60):
        for split in ("train", "test"):
            write(tmp_path, split, first)
        assert numbers(load_task("cifar10", 8, tmp_path).test) == list(range(first, first + 30))


def test_damaged_and_missing_images_are_skipped_and_counted(tmp_path, capsys):
    cells = [{"bytes": png(n), "path": None} for n in range(COUNT)]
    cells[4], cells[7] = {"bytes": b"damaged", "path": None}, None
    write(tmp_path, "train", 0, cells=cells)
    write(tmp_path, "test", 100)
    task = load_task("cifar10", 8, tmp_path)
    assert task.skipped == 2 and sorted(numbers(task.train) + numbers(task.held_out)) == sorted(
        set(range(30)) - {4, 7}
    )
    assert "row 4" in capsys.readouterr().err


def test_a_cache_folder_that_cannot_be_written_is_no_obstacle(folder, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PASS_TRANSFER_CACHE", str(tmp_path / "file" / "cache"))
    assert numbers(load_task("tiny-imagenet", 8, folder).test) == list(range(100, 130))


def test_folders_without_the_dataset_are_refused(tmp_path):
    with pytest.raises(TaskError, match="nothing is not a folder"):
        load_task("cifar100", 8, tmp_path / "nothing")
    with pytest.raises(TaskError, match="train-.*parquet"):
        load_task("cifar100", 8, tmp_path)
    write(tmp_path, "train", 0)
    with pytest.raises(TaskError, match="train and a test split; found train"):
        load_task("cifar100", 8, tmp_path)


def test_a_damaged_parquet_file_is_refused(folder):
    path = folder / "train-00001-of-00003.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TaskError, match="tiny-imagenet"):
        load_task("tiny-imagenet", 8, folder)


def test_other_columns_are_refused_with_those_expected(tmp_path):
    for split in ("train", "test"):
        write(tmp_path, split, 0, image="picture")
    with pytest.raises(TaskError, match="picture.*image/img"):
        load_task("cifar10", 8, tmp_path)


@pytest.mark.parametrize("labels", [[-1, *range(29)], [None, *range(29)]])
def test_images_without_a_label_are_refused(tmp_path, labels):
    for split in ("train", "test"):
        cells = [{"bytes": png(n), "path": None} for n in range(COUNT)]
        table = datasets.Dataset.from_dict(
            {"image": cells, "label": [n if n is None or n < 0 else n % 3 for n in labels]},
            features=datasets.Features(
                {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
            ),
        )
        table.to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(TaskError, match="label"):
        load_task("cifar10", 8, tmp_path)


def test_one_class_is_no_task(tmp_path):
    for split in ("train", "test"):
        cells = [{"bytes": png(n), "path": None} for n in range(COUNT)]
        datasets.Dataset.from_dict(
            {"image": cells, "label": [0] * COUNT},
            features=datasets.Features(
                {"image": datasets.Image(), "label": datasets.ClassLabel(names=["one"])}
            ),
        ).to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(TaskError, match="at least two"):
        load_task("cifar10", 8, tmp_path)


@pytest.mark.parametrize(
    "name, hint",
    [
        ("cifar1000", "Did you mean cifar100"),
        ("digit", "Did you mean digits"),
        ("xyz", "folder:PATH"),
    ],
)
def test_an_unknown_name_is_refused_with_a_hint(name, hint):
    with pytest.raises(UsageError, match=hint):
        load_task(name, 8)
    assert {"digits", "cifar100"} <= set(task_names())


def test_pixels_are_those_of_the_stored_images(tmp_path):
    draw = np.random.default_rng(0)
    arrays = draw.integers(0, 256, (COUNT, 8, 8, 3), np.uint8)
    for split in ("train", "test"):
        cells = []
        for array in arrays:
            file = io.BytesIO()
            Image.fromarray(array).save(file, "PNG")
            cells.append({"bytes": file.getvalue(), "path": None})
        write(tmp_path, split, 0, cells=cells)
    images, _ = load_task("cifar10", 8, tmp_path).test.__getitems__(range(COUNT))
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), arrays)


# labels of every kind, and images in files of their own


def write_rows(folder, split: str, labels, images=None, count: int = COUNT):
    """A parquet file without the hub's metadata, as other programs write it."""
    folder.mkdir(parents=True, exist_ok=True)
    images = image_cells(0)[:count] if images is None else images
    table = pyarrow.table({"image": images, "label": labels})
    pyarrow.parquet.write_table(table, folder / f"{split}.parquet")


@pytest.mark.parametrize(
    "of, names",
    [
        (lambda n: n % 3 + 1, ("1", "2", "3")),
        (lambda n: 10 * (n % 2), ("0", "10")),
        (lambda n: ["ape", "bee", "cow"][n % 3], ("ape", "bee", "cow")),
    ],
)
def test_labels_from_anywhere_and_texts_are_classes(tmp_path, of, names):
    labels = [of(n) for n in range(COUNT)]
    for split in ("train", "test"):
        write_rows(tmp_path, split, labels)
    task = load_task("cifar10", 8, tmp_path)
    assert task.class_names == names
    assert [names[label] for label in task.test.labels] == [str(label) for label in labels]


@pytest.mark.parametrize(
    "train, test, why",
    [
        ([1, 2] * 15, [1, 3] * 15, "holds 3, which is none of the 2 classes \\(1, 2\\)"),
        (["a", "b"] * 15, ["a", "c"] * 15, "holds 'c', which is none of the 2 classes"),
        ([0.5, 1.5] * 15, [0.5, 1.5] * 15, "a class number, or a class name, for every image"),
        (["a", None] * 15, ["a", "b"] * 15, "15 images have no label"),
    ],
)
def test_labels_that_are_no_class_are_named(tmp_path, train, test, why):
    write_rows(tmp_path, "train", train)
    write_rows(tmp_path, "test", test)
    with pytest.raises(TaskError, match=why):
        load_task("cifar10", 8, tmp_path)


def test_labels_beyond_the_names_are_named(tmp_path):
    for split in ("train", "test"):
        write(tmp_path, split, 0)
    cells = image_cells(0)
    kinds = {"image": datasets.Image(), "label": datasets.Value("int64")}
    rows = {"image": cells, "label": [n % 3 + 1 for n in range(COUNT)]}
    table = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    table = table.cast_column("label", datasets.Value("int64"))
    table.to_parquet(tmp_path / "test-00000-of-00001.parquet")
    with pytest.raises(TaskError, match="parquet|holds 3, which is none of the 3 classes"):
        load_task("cifar10", 8, tmp_path)


@pytest.mark.parametrize("below", ["", "data"])
def test_paths_begin_at_the_folder_or_at_the_parquet_file(tmp_path, below):
    names = []
    for number in range(COUNT):
        path = tmp_path / below / "images" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
        names.append(f"images/{number}.png")
    for split in ("train", "test"):
        write_rows(tmp_path / below, split, [n % 2 for n in range(COUNT)], names)
    (tmp_path / below / "images" / "3.png").unlink()
    task = load_task("cifar10", 8, tmp_path)
    assert numbers(task.test) == sorted(set(range(COUNT)) - {3})
    left = {part.reason: part for part in task.overview.left_out}
    assert left["files that cannot be read"].names[0] == "images/3.png"
    (tmp_path / below / "images" / "4.png").write_bytes(png(200))
    assert 200 in numbers(load_task("cifar10", 8, tmp_path).test)


def test_the_hubs_progress_bars_are_as_they_were(folder):
    for shown in (True, False):
        (datasets.enable_progress_bars if shown else datasets.disable_progress_bars)()
        load_task("tiny-imagenet", 8, folder)
        assert datasets.is_progress_bar_enabled() == shown
    datasets.enable_progress_bars()


def test_rows_of_both_kinds_are_read_anew(tmp_path):
    (tmp_path / "a.png").write_bytes(png(5))
    cells = [{"bytes": None, "path": "a.png"}, *image_cells(0)[1:]]
    for split in ("train", "test"):
        write_rows(tmp_path, split, [n % 2 for n in range(COUNT)], cells)
    assert 5 == numbers(load_task("cifar10", 8, tmp_path).test)[0]
    (tmp_path / "a.png").write_bytes(png(200))
    assert 200 == numbers(load_task("cifar10", 8, tmp_path).test)[0]


def test_another_order_of_the_classes_is_another_task(tmp_path):
    prints = []
    for names in (["cat", "dog"], ["dog", "cat"]):
        kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
        labels = [names.index(["cat", "dog"][n % 2]) for n in range(COUNT)]
        rows = {"image": image_cells(0), "label": labels}
        table = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
        for split in ("train", "test"):
            table.to_parquet(tmp_path / f"{split}.parquet")
        prints.append(load_task("cifar10", 8, tmp_path).record.fingerprints())
    assert prints[0]["train"] != prints[1]["train"]


def test_a_column_that_holds_no_images_is_refused(tmp_path):
    for split in ("train", "test"):
        write_rows(tmp_path, split, [n % 2 for n in range(COUNT)], list(range(COUNT)))
    with pytest.raises(TaskError, match="the column image holds .*images are bytes or paths"):
        load_task("cifar10", 8, tmp_path)
