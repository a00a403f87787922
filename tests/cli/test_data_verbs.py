"""What is read is shown, kept, refused when it changes, and predicted: by the command line."""

import csv
import json
import shutil
import signal
import sys

import numpy as np
import pytest
from PIL import Image

from pass_transfer.files import read_json


@pytest.fixture(scope="module")
def folder(photos, tmp_path_factory):
    """Twelve images of each class, with what people leave in folders."""
    root = photos(tmp_path_factory.mktemp("data") / "photos", count=12)
    shutil.copytree(root / "cat", root / "cat" / ".ipynb_checkpoints")
    (root / "cat" / "Thumbs.db").write_bytes(b"x")
    (root / "cat" / "notes.txt").write_text("mine")
    (root / "dog" / "damaged.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (root / "dog" / "gone.png").symlink_to("/nowhere/a.png")
    shutil.copy(root / "cat" / "0.png", root / "dog" / "the same.png")
    return root


@pytest.fixture(scope="module")
def run(folder, entry, tmp_path_factory, shell):
    """A finished run on it."""
    out = tmp_path_factory.mktemp("data") / "run"
    given = ["--hypernet", entry, "--task", f"folder:{folder}", "--out", out, "--epochs", "1"]
    quick = ["--set", "steps=1", "--device", "cpu", "--no-reconstruct"]
    process = shell("adapt", *given, *quick)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return out, said


def test_what_was_understood_is_said_before_anything_is_trained(run, folder):
    _, said = run
    assert f"folder:{folder}: 2 classes" in said
    assert "images that cannot be decoded, left out: 1 (dog/damaged.jpg)" in said
    assert "links that lead nowhere, left out: 1 (dog/gone.png)" in said
    assert "hidden or system files, not used: 2 (cat/.ipynb_checkpoints, cat/Thumbs.db)" in said
    assert "files that are no images, not used: 1 (cat/notes.txt)" in said
    assert said.index("2 classes") < said.index("finetune")


def test_it_stands_in_the_result_and_in_the_report(run):
    out, _ = run
    result = read_json(out / "result.json")
    assert result["skipped_images"] == 2
    splits = result["data"]["splits"]
    assert sum(split["images"] for split in splits.values()) == 25
    assert splits["train"]["smallest"][0] in ("cat", "dog")
    page = (out / "report.html").read_text()
    assert "The images" in page and "dog/damaged.jpg" in page


def test_copies_across_splits_are_counted(call, photos, tmp_path):
    root = photos(tmp_path / "photos" / "train", count=6)
    shutil.copytree(root, tmp_path / "photos" / "test")
    code, out, said = call("inspect", "--task", f"folder:{tmp_path / 'photos'}", "--json")
    assert code == 0
    copies = json.loads(out)["data"]["copies"]
    assert sum(copies.values()) == 12 and "train and test both have" in said


def test_inspect_shows_a_task_alone_and_beside_a_network(call, folder, entry):
    task = f"folder:{folder}"
    code, out, said = call("inspect", "--task", task)
    assert code == 0 and "held out" in out and "dog" in out and "2 classes" in said
    code, out, _ = call("inspect", "--task", task, "--json")
    found = json.loads(out)
    assert code == 0 and sum(map(sum, found["class_images"].values())) == 25
    asked = ["inspect", "--task", task, "--hypernet", entry, "--no-latency", "--json"]
    both = json.loads(call(*asked)[1])
    assert both["image_size"] == 32 and "class_images" in both and both["macs"] > 0


def test_inspect_needs_a_network_or_a_task(refused):
    assert "--hypernet" in refused("inspect", code=2)
    message = refused("inspect", "--task", "digits", "--plot", "x.png", code=2)
    assert "give --hypernet" in message


def test_eval_takes_all_new_pictures_and_says_what_was_trained_on(call, run, folder, tmp_path):
    out, _ = run
    again = json.loads(call("eval", out, "--task", f"folder:{folder}", "--json")[1])
    result = read_json(out / "result.json")
    assert (again["top1"], again["images"]) == (result["top1"], result["images"])
    shutil.copytree(folder / "cat", tmp_path / "new" / "cat")
    code, stdout, said = call("eval", out, "--task", f"folder:{tmp_path / 'new'}", "--json")
    found = json.loads(stdout)
    assert code == 0 and found["images"] == 12 and found["which"] == "images"
    assert found["classes_without_images"] == ["dog"] and found["trained_on"] > 0
    assert "were used to train or choose this network" in said


def test_eval_names_the_classes_that_differ(refused, run, photos, tmp_path):
    root = photos(tmp_path / "photos", classes=("cat", "eel"))
    message = refused("eval", run[0], "--task", f"folder:{root}")
    assert "not made for: eel" in message and "cat, dog" in message


def test_predict_takes_files_and_folders_and_writes_them(call, run, folder, tmp_path):
    out, picture = run[0], folder / "cat" / "1.png"
    code, text, _ = call("predict", out, picture)
    assert code == 0 and text.startswith(f"{picture}: ")
    target = tmp_path / "classes.csv"
    code, text, said = call("predict", out, folder, "--top", "2", "--out", target)
    rows = list(csv.DictReader(target.open()))
    assert code == 0 and len(rows) == 25 and {row["class"] for row in rows} <= {"cat", "dog"}
    assert all(float(r["probability"]) + float(r["probability2"]) > 0.999 for r in rows)
    assert "images that cannot be decoded, left out: 1" in said
    code, text, _ = call("predict", out, folder, "--out", tmp_path / "x.json", "--json")
    assert json.loads(text) == read_json(tmp_path / "x.json")


def test_a_turned_photo_is_predicted_upright(call, run, folder, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "upright.png")
    tag = Image.Exif()
    tag[0x0112] = 6
    turned = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "turned.png", exif=tag)
    asked = ["predict", run[0], tmp_path / "upright.png", tmp_path / "turned.png", "--json"]
    one, other = json.loads(call(*asked)[1])["predictions"]
    assert one["classes"] == other["classes"]


@pytest.mark.parametrize(
    "more, code, why",
    [
        (["nothing.png"], 1, "there is no nothing.png"),
        (["--top", "3", "."], 2, "knows 2 classes"),
        ([".", "--out", "x.txt"], 2, ".csv or .json"),
    ],
)
def test_predictions_that_cannot_be_made_are_refused(refused, run, more, code, why):
    assert why in refused("predict", run[0], *more, code=code)


def test_a_folder_without_a_readable_image_predicts_nothing(call, run, tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    code, out, said = call("predict", run[0], tmp_path, "--out", tmp_path / "x.csv")
    assert code == 1 and "no image can be read" in said and not (tmp_path / "x.csv").exists()


def test_the_cache_is_listed_and_cleared(call, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("PASS_TRANSFER_CACHE", str(tmp_path / "cache"))
    assert call("inspect", "--task", f"folder:{photos(tmp_path / 'photos')}")[0] == 0
    code, out, _ = call("cache", "ls")
    assert code == 0 and "16 images at 64 px" in out and str(tmp_path / "cache") in out
    found = json.loads(call("cache", "ls", "--json")[1])
    assert found["limit"] > 0 and len(found["entries"]) == 2
    assert "freed" in call("cache", "clear")[1]
    assert json.loads(call("cache", "ls", "--json")[1])["entries"] == []


def interrupted(shell, arguments):
    """A run that is stopped by Ctrl-C in its second epoch."""
    code = (
        "import signal; from pass_transfer.cli.main import main; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); main()"
    )
    process = shell(*arguments, code=code)
    for line in process.stderr:
        if line.startswith("finetune 1/"):
            process.send_signal(signal.SIGINT)
            break
    process.communicate(timeout=300)
    assert process.returncode == 130


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_a_run_is_resumed_with_its_images_wherever_they_are(shell, entry, photos, tmp_path, call):
    root = photos(tmp_path / "photos", count=40)
    quick = ["--epochs", "40", "--set", "steps=1", "--device", "cpu", "--no-reconstruct"]
    fixed = ["adapt", "--hypernet", entry, "--out", tmp_path / "run", *quick, "--no-report"]
    interrupted(shell, [*fixed, "--task", f"folder:{root}"])
    (root / "cat").rename(root / "aside")
    (root / "dog").rename(root / "cat")
    (root / "aside").rename(root / "dog")
    code, _, said = call(*fixed, "--task", f"folder:{root}", "--resume")
    assert code == 1 and "images: 80 with other content (80 now, 80 then)" in said
    (root / "cat").rename(root / "aside")
    (root / "dog").rename(root / "cat")
    (root / "aside").rename(root / "dog")
    root.rename(tmp_path / "moved")
    code, _, said = call(*fixed, "--task", f"folder:{tmp_path / 'moved'}", "--resume")
    assert code == 0, said
