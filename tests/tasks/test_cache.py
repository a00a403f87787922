"""The cache: named by content, of a limited size, never with an error that may pass."""

import json
import os
import shutil
import time

import pytest
from PIL import Image

from pass_transfer.errors import UsageError
from pass_transfer.tasks import cache, hashes
from pass_transfer.tasks import images as tasks_images
from pass_transfer.tasks.cache import cache_folder, clear_cache, list_cache
from pass_transfer.tasks.hashes import settled
from pass_transfer.tasks.listing import Stamp
from pass_transfer.tasks.registry import load_task

SIDE = 8


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PASS_TRANSFER_CACHE", str(tmp_path / "cache"))


def make(root, first=0, count=10):
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True, exist_ok=True)
        for place in range(count):
            image = Image.new("RGB", (SIDE, SIDE), (first % 256, first // 256, 7))
            image.save(root / name / f"{place:03}.png")
            first += 1
    return root


def load(root, size=SIDE):
    return load_task(f"folder:{root}", size)


def kept_entries():
    return sorted(cache_folder().glob("decoded/*"))


def test_moved_images_and_new_times_are_found_again(tmp_path, decoded):
    root = make(tmp_path / "photos")
    load(root)
    assert len(decoded) == 20 and len(kept_entries()) == 1
    for path in root.rglob("*.png"):
        os.utime(path, (1, 1))
    load(root)
    assert len(decoded) == 20
    root.rename(tmp_path / "moved")
    load(tmp_path / "moved")
    assert len(kept_entries()) == 1


def test_hashes_cost_no_second_read(tmp_path, monkeypatch):
    root = make(tmp_path / "photos")
    monkeypatch.setattr(hashes, "FINE_STEP", 0)
    time.sleep(0.02)
    load(root)
    opened = []
    monkeypatch.setattr(hashes, "sha256", lambda path: opened.append(path) or "")
    load(root)
    assert opened == []
    (root / "cat" / "003.png").touch()
    monkeypatch.undo()
    load(root)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser reads every file")
def test_a_file_that_cannot_be_read_today_is_tried_again(tmp_path):
    root = make(tmp_path / "photos")
    (root / "cat" / "000.png").chmod(0)
    assert load(root).skipped == 1
    (root / "cat" / "000.png").chmod(0o644)
    assert load(root).skipped == 0


def test_an_error_that_may_pass_is_not_kept(tmp_path, monkeypatch):
    root = make(tmp_path / "photos")
    real = tasks_images.content_of

    def refusing(encoded):
        if str(encoded).endswith("cat/000.png"):
            return real("/nowhere/of/this/name")
        return real(encoded)

    monkeypatch.setattr(tasks_images, "content_of", refusing)
    task = load(root)
    assert task.skipped == 1
    assert "files that cannot be read" in {part.reason for part in task.overview.left_out}
    monkeypatch.undo()
    monkeypatch.setenv("PASS_TRANSFER_CACHE", str(tmp_path / "cache"))
    assert load(root).skipped == 0


def test_the_least_recently_used_goes_first(tmp_path, monkeypatch):
    one, two, three = (make(tmp_path / str(n), first=100 * n) for n in range(3))
    load(one)
    load(two)
    kept = {path: path / "note.json" for path in kept_entries()}
    size = sum(entry.bytes for entry in list_cache() if "px" in entry.title) // 2
    for age, path in enumerate(sorted(kept, key=lambda path: kept[path].stat().st_mtime)):
        os.utime(kept[path], (1000 + age, 1000 + age))
        for file in path.iterdir():
            os.utime(file, (1000 + age, 1000 + age))
    load(one)  # used again
    monkeypatch.setenv("PASS_TRANSFER_CACHE_SIZE", str(int(2.5 * size)))
    load(three)
    titles = " ".join(entry.title for entry in list_cache())
    assert str(one) in titles and str(three) in titles and str(two) not in titles


def test_what_is_larger_than_the_whole_cache_is_not_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PASS_TRANSFER_CACHE_SIZE", "100")
    load(make(tmp_path / "photos"))
    assert kept_entries() == []
    assert f"the cache in {cache_folder()} cannot keep" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["many", "-1", "20X", "nan", "g"])
def test_a_size_that_is_none_is_refused(tmp_path, monkeypatch, given):
    monkeypatch.setenv("PASS_TRANSFER_CACHE_SIZE", given)
    with pytest.raises(UsageError, match="PASS_TRANSFER_CACHE_SIZE"):
        load(make(tmp_path / "photos"))


@pytest.mark.parametrize("given, size", [("1000", 1000), ("2k", 2048), ("1.5G", 3 << 29), ("", 0)])
def test_sizes_have_units(monkeypatch, given, size):
    monkeypatch.setenv("PASS_TRANSFER_CACHE_SIZE", given)
    assert cache.cache_limit() == size or given == ""


def test_clearing_deletes_what_is_ours_and_nothing_else(tmp_path):
    load(make(tmp_path / "photos"))
    folder = cache_folder()
    (folder / f"{'a' * 24}.npy").write_bytes(b"old")
    (folder / "mine.json").write_text("{}")
    assert any("earlier version" in entry.title for entry in list_cache())
    assert clear_cache() > 0
    assert [path.name for path in folder.iterdir()] == ["mine.json"]
    assert list_cache() == []
    shutil.rmtree(folder)
    assert list_cache() == [] and clear_cache() == 0


def test_folders_of_somebody_else_are_left_alone(tmp_path, monkeypatch):
    mine = cache_folder() / "decoded" / "holiday-videos"
    mine.mkdir(parents=True)
    (mine / "film.bin").write_bytes(bytes(5000))
    (cache_folder() / "datasets").mkdir()
    monkeypatch.setenv("PASS_TRANSFER_CACHE_SIZE", "4000")
    load(make(tmp_path / "photos"))
    clear_cache()
    assert (mine / "film.bin").exists() and (cache_folder() / "datasets").exists()


def test_what_is_too_large_itself_drives_nothing_out(tmp_path, monkeypatch):
    small = make(tmp_path / "small", count=4)
    load(small)
    size = sum(entry.bytes for entry in list_cache() if "px" in entry.title)
    monkeypatch.setenv("PASS_TRANSFER_CACHE_SIZE", str(size + 500))
    load(make(tmp_path / "large", first=100, count=40))
    assert [entry.title for entry in list_cache() if str(small) in entry.title]


@pytest.mark.parametrize(
    "note",
    [
        {"problems": {"0": ["x"]}, "treated": {}},
        {"problems": {"999": ["a", "b"]}, "treated": {}},
        {"problems": {"0": [["a"], "b"]}, "treated": {}},
        {"problems": {"-1": ["a", "b"]}, "treated": {}},
        {"problems": [], "treated": 5},
        [],
    ],
)
def test_odd_notes_are_made_again(tmp_path, decoded, note):
    root = make(tmp_path / "photos")
    load(root)
    path = kept_entries()[0] / "note.json"
    path.write_text(json.dumps(note))
    assert load(root).skipped == 0 and len(decoded) == 40


def test_pillows_settings_decide_which_images_are_kept(tmp_path, monkeypatch):
    root = make(tmp_path / "photos")
    Image.new("RGB", (60, 60)).save(root / "cat" / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert load(root).skipped == 1
    monkeypatch.undo()
    monkeypatch.setenv("PASS_TRANSFER_CACHE", str(tmp_path / "cache"))
    assert load(root).skipped == 0


def test_a_file_that_was_only_just_written_may_change_unseen():
    second = 10**9
    assert settled(Stamp(1, 100, 5 * second + 1, 1), 8 * second)
    assert not settled(Stamp(1, 100, 5 * second + 1, 1), 5 * second + 2)
    assert settled(Stamp(1, 99 * second, 5 * second + 1, 1), 8 * second)  # a time to come
    assert not settled(Stamp(1, 100, 5 * second, 1), 6 * second)  # a clock of whole seconds
