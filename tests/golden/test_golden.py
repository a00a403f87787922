"""What version 0.1.0 wrote is read by this one: a run, a zoo entry, a study's cells."""

import json
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pass_transfer as pt

HERE = Path(__file__).parent
VERSIONS = sorted(path.name for path in HERE.iterdir() if (path / "entry.tar.xz").is_file())
LOGITS = {"0.1.0": [1.1835, 0.1322, 3.6896, 2.5051, 0.6624, 0.3337, 0.2350, 2.5754, 4.3163, 2.7310]}
KEPT = {"0.1.0": [34, 34, 34, 69, 68, 68, 136, 136, 137, 272, 272, 272]}  # at macs=0.3


@pytest.fixture(scope="module", params=VERSIONS)
def world(request, tmp_path_factory):
    """A version's files, unpacked, to be used and written beside."""
    folder = tmp_path_factory.mktemp("golden") / request.param
    shutil.copytree(HERE / request.param, folder)
    with tarfile.open(folder / "entry.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def there(world, monkeypatch):
    """Works in the folder of a version's files."""
    monkeypatch.chdir(world)
    return world


def test_a_run_computes_what_it_computed(there):
    model = pt.load_pruned("run")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(images)[0]
    assert torch.allclose(logits, torch.tensor(LOGITS[there.name]), atol=2e-4)
    found = model.evaluate("digits", device="cpu", precision="no")
    assert found.top1 == pytest.approx(json.loads(Path("run/result.json").read_text())["top1"])


def test_it_sees_images_as_it_did_and_new_runs_of_the_entry_keep_their_shape(there, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 90, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    model = pt.load_pruned("run")
    squashed = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC))
    images = torch.from_numpy(squashed.transpose(2, 0, 1).copy())[None]
    seen, wanted = model.predict([tmp_path / "wide.png"]), model.classify(images / 255)
    assert seen[0][0] == (wanted[0][0][0], pytest.approx(wanted[0][0][1], abs=1e-5))
    assert pt.load_hypernet("entry").spec.preprocessing == pt.Preprocessing(32, "crop")


ASKED = (
    "adapt", "--hypernet", "entry", "--task", "digits", "--density", "0.11", "--round-to", "1",
    "--epochs", "6", "--lr", "0.05", "--set", "steps=10", "--device", "cpu", "--precision", "no",
)  # fmt: skip


def test_a_finished_run_stays_finished(there, call, tmp_path):
    shutil.copytree("run", tmp_path / "run")
    code, out, err = call(*ASKED, "--out", str(tmp_path / "run"), "--resume", "--json")
    assert code == 0 and "already finished" in err, err
    before = json.loads(Path("run/result.json").read_text())
    assert json.loads(out)["top1"] == before["top1"]
    code, _, err = call(*ASKED, "--seed", "1", "--out", str(tmp_path / "run"), "--resume")
    assert code == 1 and "seed was 0, now 1" in err


def test_an_unfinished_run_is_left_to_its_version(there, call, tmp_path):
    shutil.copytree("run", tmp_path / "run")
    (tmp_path / "run/result.json").unlink()
    code, _, err = call(*ASKED, "--out", str(tmp_path / "run"), "--resume")
    assert code == 1 and "was begun by version 0.1" in err and "--force" in err, err


def test_a_run_has_its_report_and_its_preview(there, call):
    code, out, err = call("report", "run", "--json")
    assert code == 0, err
    page = re.sub("<[^>]+>", "", Path(json.loads(out)["report"]).read_text(encoding="utf-8"))
    assert "pass-transfer adapt --hypernet entry --task digits" in page
    code, out, err = call(
        "inspect", "--hypernet", "entry", "--run", "run", "--density", "0.11", "--round-to", "1",
        "--no-latency", "--json",
    )  # fmt: skip
    assert code == 0, err
    kept = {group["name"]: group["kept"] for group in json.loads(out)["groups"]}
    assert kept == json.loads(Path("run/result.json").read_text())["channels_kept"]


def test_an_entry_is_verified_and_gives_its_masks(there, call):
    code, _, err = call("zoo", "verify", "entry")
    assert code == 0, err
    entry = pt.load_hypernet("entry")
    masks = entry.generate_masks(entry.prompt(), macs=0.3, round_to=1)
    assert list(masks.kept.values()) == KEPT[there.name]


def test_cells_are_read_and_not_made_again(there, call):
    before = {path.name: path.read_bytes() for path in Path("cells").glob("*.json")}
    code, out, err = call(
        "study", "run", "study.yaml", "--json", "--device", "cpu", "--precision", "no"
    )
    assert code == 0 and json.loads(out) == {"done": 5, "failed": 1, "elsewhere": 0}, err
    assert {path.name: path.read_bytes() for path in Path("cells").glob("*.json")} == before
    code, out, err = call("study", "report", "study.yaml")
    assert code == 0 and "transfer_prompt" in out and "slim failed" in out, err
