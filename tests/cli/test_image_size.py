"""Photographs of any shape, as a user has them: trained on, predicted, exported, resumed."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

import pass_transfer as pt
from pass_transfer.files import read_json, write_json
from pass_transfer.networks import BackboneSpec
from pass_transfer.networks.network import Network
from pass_transfer.preprocessing import Preprocessing

onnxruntime = pytest.importorskip("onnxruntime")
GUIDE = Path(__file__).parents[2] / "docs" / "your-network.md"
SHAPES = [(90, 60), (40, 110), (300, 50), (64, 64), (3, 900)]


def picture(shape, seed):
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize(shape, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A folder with panoramas, portraits and a sliver."""
    root = tmp_path_factory.mktemp("uneven") / "photos"
    for seed, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for number in range(10):
            shape = SHAPES[number % len(SHAPES)]
            picture(shape, 100 * seed + number).save(root / name / f"{number}.png")
    return root


def asked(entry, root, out, *more):
    given = ["adapt", "--hypernet", entry, "--task", f"folder:{root}", "--out", out]
    quick = ["--epochs", "1", "--method", "mask", "--no-reconstruct", "--device", "cpu"]
    return [*given, *quick, *more]


@pytest.fixture(scope="module")
def run(uneven, entry, tmp_path_factory, shell):
    out = tmp_path_factory.mktemp("uneven") / "run"
    process = shell(*asked(entry, uneven, out, "--image-size", "32", "--precision", "no"))
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return out


def test_how_images_are_seen_is_saved_with_the_model_and_said_in_the_report(run):
    saved = read_json(run / "model.json")["backbone"]
    assert (saved["fit"], saved["crop_share"], saved["interpolation"]) == ("crop", 1.0, "bicubic")
    seen = {"size": 32, "fit": "crop", "crop_share": 1.0, "interpolation": "bicubic"}
    assert read_json(run / "config.json")["preprocessing"] == seen
    treated = read_json(run / "result.json")["data"]["treated"]
    assert treated == {"long": 12}  # of 40 x 110, 300 x 50 and 3 x 900
    page = re.sub("<[^>]+>", "", (run / "report.html").read_text(encoding="utf-8"))
    assert "Each image is resized to 32 pixels on the shorter side (bicubic) and cropped" in page


def test_predict_and_eval_see_the_centre_and_keep_the_shape(run, uneven, call):
    files = sorted(uneven.rglob("*.png"))
    code, out, err = call("predict", run, uneven, "--json", "--device", "cpu", "--top", "2")
    assert code == 0, err
    found = {Path(one["file"]): one["classes"] for one in json.loads(out)["predictions"]}
    model = pt.load_pruned(run)
    assert set(found) == set(files)
    for file in files:
        image = functional.resize(Image.open(file), [32], InterpolationMode.BICUBIC)
        pixels = functional.pil_to_tensor(functional.center_crop(image, [32]))
        with torch.no_grad():
            shares = model(pixels[None]).softmax(1)[0]
        for one in found[file]:
            wanted = shares[model.class_names.index(one["class"])].item()
            sliver = max(Image.open(file).size) == 900
            assert one["probability"] == pytest.approx(wanted, abs=0.05 if sliver else 2e-3)
    code, out, err = call("eval", run, "--task", f"folder:{uneven}", "--json", "--device", "cpu")
    assert code == 0, err
    result = read_json(run / "result.json")
    assert json.loads(out)["top1"] == pytest.approx(result["top1"])


def lines_of_the_guide():
    """The block of Python under "Without this library"."""
    text = GUIDE.read_text(encoding="utf-8").split("## Without this library")[1]
    return re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]


@pytest.mark.parametrize(
    "seen",
    [
        Preprocessing(32),
        Preprocessing(48, "crop", 0.875, "bilinear"),
        Preprocessing(40, "squash"),
        Preprocessing(112, "crop", 0.9),
    ],
    ids=str,
)
def test_the_lines_of_the_guide_see_what_the_library_sees(seen, little, tmp_path, monkeypatch):
    how = {name: value for name, value in seen.saved().items() if name != "size"}
    spec = BackboneSpec("little", 10, seen.size, **how)
    names = [f"class {number}" for number in range(10)]
    model = pt.PrunedModel(Network(little, spec.mean, spec.std), spec, names, {}).eval()
    model.export(tmp_path / "small.onnx")
    monkeypatch.chdir(tmp_path)
    for shape in SHAPES[:4]:
        picture(shape, 5).save("photo.jpg", quality=95)
        found = {}
        exec(lines_of_the_guide(), found)
        image = pt.read_image("photo.jpg", spec.preprocessing)
        assert np.array_equal(found["images"][0], image.numpy())
        with torch.no_grad():
            expected = model(image[None])
        assert np.allclose(found["logits"], expected, atol=1e-4 * float(expected.abs().max()))
    about = found["about"]
    assert {name: about[name] for name in how} == how and about["resize"] == str(seen)


def test_another_size_than_an_entrys_is_refused_before_anything_is_written(
    entry, uneven, run, refused, tmp_path
):
    out = tmp_path / "run"
    said = refused(*asked(entry, uneven, out, "--image-size", "64"), code=2)
    assert f"--image-size is 64; {entry} takes images of 32 pixels, and no others" in said
    said = refused("inspect", "--hypernet", entry, "--image-size", "64", code=2)
    assert "takes images of 32 pixels" in said
    again = ["adapt", "--from", run, "--task", "digits", "--out", out, "--image-size", "40"]
    assert f"{run} takes images of 32 pixels" in refused(*again, code=2)
    searched = ["search", "--backbone", entry, "--out", out, "--image-size", "64"]
    assert f"the backbone in {entry} takes images of 32 pixels" in refused(*searched, code=2)
    said = refused(*asked(entry, uneven, out, "--image-size", "513"), code=2)
    assert "--image-size is 513; it is a whole number from 1 to 512" in said
    assert not out.exists()


def test_a_task_is_looked_at_in_a_size_and_the_cache_is_cleared_by_it(
    uneven, call, refused, tmp_path, monkeypatch
):
    monkeypatch.setenv("PASS_TRANSFER_CACHE", str(tmp_path / "cache"))
    task = f"folder:{uneven}"
    for size in ("112", "24"):
        code, out, err = call("inspect", "--task", task, "--image-size", size, "--json")
        assert code == 0 and json.loads(out)["image_size"] == int(size), err
    assert (
        "resized to 24 pixels on the shorter side"
        in call("inspect", "--task", task, "--image-size", "24")[1]
    )
    assert "--image-size is 0" in refused("inspect", "--task", task, "--image-size", "0", code=2)
    listed = json.loads(call("cache", "ls", "--image-size", "24", "--json")[1])["entries"]
    assert [entry["image_size"] for entry in listed] == [24] and "at 24 px" in listed[0]["title"]
    freed = json.loads(call("cache", "clear", "--image-size", "24", "--json")[1])["freed"]
    assert freed == listed[0]["bytes"]
    left = {
        entry["image_size"] for entry in json.loads(call("cache", "ls", "--json")[1])["entries"]
    }
    assert 112 in left and 24 not in left


def test_a_run_of_before_goes_on_with_squashed_images(run, entry, uneven, call, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(run, out)
    config = read_json(out / "config.json")
    del config["preprocessing"]
    write_json(out / "config.json", config)
    given = asked(entry, uneven, out, "--precision", "no", "--resume", "--with-dense", "--json")
    code, _, err = call(*given)
    assert code == 0 and "already finished" in err, err
    assert read_json(out / "dense" / "model.json")["backbone"]["fit"] == "squash"
