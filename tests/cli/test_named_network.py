"""A network by its name in place of a zoo entry, from the command line to the run."""

import json
import re

import onnxruntime
import pytest
import torch
from torch import nn

import pass_transfer as pt
from pass_transfer.files import read_tensors, write_tensors
from pass_transfer.networks import BackboneSpec, build_backbone, builders, register_network
from pass_transfer.networks.spec import IMAGENET_MEAN, IMAGENET_STD
from pass_transfer.networks.weights import fingerprint

SIDE = 16


class Tiny(nn.Sequential):
    """A network that trains in milliseconds."""

    def __init__(self, classes):
        layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()]
        layers += [nn.Conv2d(16, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, classes))


@pytest.fixture(scope="module", autouse=True)
def tiny():
    register_network("tiny", Tiny, image_size=SIDE)
    yield
    del builders._SOURCES["tiny"]


def state(classes=2, seed=0):
    torch.manual_seed(seed)
    return Tiny(classes).state_dict()


@pytest.fixture
def weights(tmp_path):
    """A file with weights of the network, as a training script leaves them."""
    path = tmp_path / "w.pth"
    torch.save({"epoch": 1, "state_dict": {f"module.{n}": t for n, t in state().items()}}, path)
    return path


@pytest.fixture
def asked(weights, few_photos, tmp_path):
    """Arguments of adapt for the network, with more."""

    def make(*more):
        given = ["adapt", "--network", "tiny", "--weights", weights, "--task", few_photos]
        given += ["--out", tmp_path / "run", "--epochs", "1", "--batch-size", "8"]
        return [*given, "--device", "cpu", "--round-to", "1", "--no-report", *more]

    return make


def test_a_run_from_the_weights_to_another_cut_of_it(call, asked, few_photos, tmp_path):
    code, out, err = call(*asked("--json"))
    run = tmp_path / "run"
    result, config = (json.loads((run / f"{n}.json").read_text()) for n in ("result", "config"))
    assert code == 0 and json.loads(out) == result, err
    assert result["hypernet"] is None and result["network"] == "tiny" and "from" not in result
    assert result["method"] == "selection" and result["macs"] <= 0.5 * result["dense_macs"]
    assert config["network"] == "tiny" and config["backbone"] == fingerprint(state())
    assert config["inputs"]["image_size"] == SIDE and config["inputs"]["classes"] == 2
    code, out, _ = call("eval", run, "--task", few_photos, "--device", "cpu", "--json")
    assert json.loads(out)["top1"] == result["top1"]
    assert json.loads(call(*asked("--resume", "--json"))[1]) == result
    again = ["adapt", "--from", run, "--task", few_photos, "--out", tmp_path / "again"]
    again += ["--epochs", "1", "--batch-size", "8", "--device", "cpu", "--round-to", "1"]
    code, out, err = call(*again, "--no-report", "--json")
    assert code == 0 and json.loads(out)["dense_macs"] == result["macs"], err
    assert call("report", run)[0] == 0
    page = " ".join((run / "report.html").read_text().split())
    assert "adapt --network tiny --weights" in re.sub(r"<[^>]+>", "", page)
    assert f"Fingerprint of the weights of tiny: {config['backbone']}" in page


def test_a_run_that_was_stopped_ends_with_the_same_bytes(call, asked, tmp_path, monkeypatch):
    assert call(*asked("--with-dense"))[0] == 0
    whole = tmp_path / "whole"
    (tmp_path / "run").rename(whole)

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pass_transfer.recipes.pipeline.train", stop)
        code, _, err = call(*asked("--with-dense"))
        assert code == 130 and "--resume" in err
    assert call(*asked("--with-dense", "--resume"))[0] == 0
    for name in ("model.safetensors", "masks.safetensors", "dense/model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("method", ["vpns", "pass_from_scratch"])
def test_a_prompt_of_the_methods_own_stays_also_over_a_stop(call, asked, tmp_path, method):
    more = ["--method", method, "--set", "steps=2", "--set", "deploy_prompt=true"]
    code, _, err = call(*asked(*more))
    assert code == 0, err
    model = pt.load_pruned(tmp_path / "run")
    found = read_tensors(tmp_path / "run" / "prompt.safetensors")
    assert model.network.prompt is not None and found["values"].shape == (3, SIDE, SIDE)
    code, out, err = call(*asked(*more, "--resume", "--with-dense", "--json"))
    assert code == 0 and json.loads(out)["dense_top1"] is not None, err
    assert pt.load_pruned(tmp_path / "run" / "dense").network.prompt.pad == model.network.prompt.pad


def test_other_weights_another_size_and_another_network_are_not_resumed(call, asked, tmp_path):
    assert call(*asked())[0] == 0
    write_tensors(tmp_path / "other.safetensors", state(seed=1))
    write_tensors(tmp_path / "same.safetensors", state())
    other, same = (tmp_path / f"{name}.safetensors" for name in ("other", "same"))
    code, _, err = call(*asked("--resume", "--weights", other))
    assert code == 1 and "backbone was" in err
    code, _, err = call(*asked("--resume", "--image-size", "32"))
    assert code == 1 and "inputs was" in err
    assert call(*asked("--resume", "--weights", same))[0] == 0, "wherever the file lies"


def test_a_classifier_of_as_many_classes_is_kept_and_a_missing_one_is_made(call, asked, tmp_path):
    assert "mapped one to one" in call(*asked())[2]
    write_tensors(tmp_path / "seven.safetensors", state(7))
    code, _, err = call(*asked("--force", "--weights", tmp_path / "seven.safetensors"))
    assert code == 0 and "a classifier of 7 classes" in err and "class means" in err
    bare = {name: tensor for name, tensor in state().items() if not name.startswith("8.")}
    write_tensors(tmp_path / "bare.safetensors", bare)
    code, _, err = call(*asked("--force", "--weights", tmp_path / "bare.safetensors"))
    assert code == 0 and "no classifier" in err and "class means" in err


def wrong(entry, weights):
    """Arguments that do not go together, with the exit code and words of the refusal."""
    network = ["--network", "tiny", "--weights", weights]
    return {
        "both": ([*network, "--hypernet", entry], 2, "--hypernet and --network are given"),
        "and a run": ([*network, "--from", "run"], 2, "--network and --from are given"),
        "neither": ([], 2, "none is given"),
        "unknown": (["--network", "resnet51"], 2, "or resnet50"),
        "method": ([*network, "--method", "prompt"], 2, "the method prompt needs a hypernetwork"),
        "mask": ([*network, "--method", "mask"], 2, "(--hypernet)"),
        "size": ([*network, "--image-size", "0"], 2, "--image-size is 0"),
        "its size": (["--network", "vgg16", "--image-size", "16"], 2, "--image-size is 16; this"),
        "backbone": ([*network, "--backbone", weights], 2, "(--weights)"),
        "weights": (["--hypernet", entry, "--weights", weights], 2, "--weights goes with"),
        "entry's size": (["--hypernet", entry, "--image-size", "48"], 2, "takes images of"),
        "none to load": (["--network", "tiny"], 1, "without weights to download"),
        "no file": (["--network", "tiny", "--weights", "no.pth"], 1, "no weights file no.pth"),
        "another's": (["--network", "resnet18", "--weights", weights], 1, "conv1.weight is miss"),
        "a name": (["--network", "resnet18", "--weights", "V9"], 1, "IMAGENET1K_V1"),
    }


@pytest.mark.parametrize("case", wrong("", ""))
def test_what_does_not_go_together_is_refused_in_a_line(
    refused, entry, weights, few_photos, tmp_path, case
):
    arguments, code, words = wrong(entry, weights)[case]
    given = ["adapt", "--task", few_photos, "--out", tmp_path / "run", *arguments]
    assert words in refused(*given, code=code)
    assert not (tmp_path / "run").exists()


def test_inspect_foresees_what_goes_by_magnitude_or_by_a_run(
    call, refused, asked, tmp_path, weights
):
    given = ["inspect", "--network", "tiny", "--weights", weights, "--no-latency", "--json"]
    given += ["--round-to", "1"]
    code, out, err = call(*given)
    found = json.loads(out)
    assert code == 0 and found["hypernet"] is None and found["network"] == "tiny", err
    assert found["macs"] <= 0.5 * found["dense_macs"] and found["prompt"] == "magnitude"
    assert call(*asked())[0] == 0
    found = json.loads(call(*given, "--run", tmp_path / "run")[1])
    kept = json.loads((tmp_path / "run" / "result.json").read_text())["channels_kept"]
    assert {group["name"]: group["kept"] for group in found["groups"]} == kept
    write_tensors(tmp_path / "other.safetensors", state(seed=1))
    other = ["--weights", tmp_path / "other.safetensors", "--run", tmp_path / "run"]
    assert "as --weights" in refused(*given, *other)
    assert "channels" in call(*[word for word in given if word != "--json"])[1]


def test_bench_measures_a_network_beside_a_cut_of_it(call, refused, weights):
    given = ["bench", "--network", "tiny", "--engine", "eager", "--rounds", "1", "--batch", "1"]
    code, out, err = call(*given, "--macs", "0.5", "--device", "cpu", "--json")
    found = json.loads(out)
    assert code == 0 and "random weights" in err and found["network"] == "tiny"
    assert found["macs"] <= 0.5 * found["dense_macs"] and len(found["rows"]) == 2
    code, out, err = call(*given, "--weights", weights, "--macs", "0.75", "--device", "cpu")
    assert code == 0 and "random" not in err and "tiny at" in out
    assert "neither is given" in refused("bench", code=2)
    assert "--macs is for a network" in refused("bench", "runs/x", "--macs", "0.5", code=2)


def test_search_makes_an_entry_of_a_network(call, refused, weights, few_photos, tmp_path):
    out = tmp_path / "search"
    given = ["search", "--network", "tiny", "--weights", weights, "--task", few_photos]
    given += ["--epochs", "1", "--steps", "2", "--tasks", "1", "--batch-size", "8", "--out", out]
    code, _, err = call(*given, "--device", "cpu")
    assert code == 0, err
    assert call("zoo", "verify", out / "entry")[0] == 0
    assert pt.load_hypernet(out / "entry").spec.architecture == "tiny"
    code, _, err = call(*given, "--device", "cpu", "--resume")
    assert code == 0 and "already finished" in err
    assert "neither is given" in refused("search", "--out", tmp_path / "no", code=2)
    assert "task is missing" in refused("search", "--out", tmp_path / "no", *given[1:5], code=2)
    assert not (tmp_path / "no").exists() and not (tmp_path / "no-backbone").exists()


def test_a_whole_network_is_exported(call, refused, weights, tmp_path):
    path = tmp_path / "whole.onnx"
    code, out, err = call("export", "--network", "tiny", "--weights", weights, "--out", path)
    assert code == 0 and path.is_file() and "logits" in out, err
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = torch.rand(2, 3, SIDE, SIDE)
    network = Tiny(2).eval()
    network.load_state_dict(state())
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        expected = network((images - mean) / std)
    found = session.run(["logits"], {"images": images.numpy()})[0]
    assert torch.allclose(torch.from_numpy(found), expected, atol=1e-5)
    path.unlink()
    assert "neither is given" in refused("export", "--out", path, code=2)
    assert "--weights goes with" in refused("export", "r", "--weights", "x", "--out", path, code=2)
    assert not path.exists()


def test_a_network_of_timm_is_cut_and_loaded(call, asked, tmp_path):
    torch.manual_seed(0)
    made = build_backbone(BackboneSpec("timm/test_resnet", 2, 32))
    write_tensors(tmp_path / "w.safetensors", made.state_dict())
    given = asked("--json", "--image-size", "32", "--method", "uniform_l1")
    given[given.index("--network") + 1] = "timm/test_resnet.r160_in1k"
    given[given.index("--weights") + 1] = tmp_path / "w.safetensors"
    code, out, err = call(*given)
    result = json.loads(out)
    assert code == 0 and result["network"] == "timm/test_resnet", err
    assert result["macs"] <= 0.5 * result["dense_macs"]
    model = pt.load_pruned(tmp_path / "run")
    assert model.spec.architecture == "timm/test_resnet" and model.spec.image_size == 32
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 2)


STUDY = "network: tiny\nweights: {weights}\ntasks: [{task}]\nmethods: [{methods}]\nbudgets: [0.5]\n"
STUDY += "seeds: [0]\nbatch_size: 8\nround_to: 1\nout: {out}\n"


def test_a_study_of_a_network(call, refused, weights, few_photos, tmp_path):
    fields = {"weights": weights, "task": few_photos, "out": tmp_path / "cells"}
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.format(methods="random, group_l1", **fields))
    code, out, err = call("study", "run", path, "--device", "cpu")
    assert code == 0 and "2 cells done, 0 failed" in out, err
    assert "0 of 2 cells are missing" in call("study", "run", path, "--dry-run")[1]
    write_tensors(tmp_path / "other.safetensors", state(seed=1))
    text = path.read_text()
    path.write_text(text.replace(str(weights), str(tmp_path / "other.safetensors")))
    assert "another set of weights" in refused("study", "run", path, "--device", "cpu")
    for change, words in {
        ("random", "prompt"): "prompt needs a hypernetwork",
        ("network: tiny", "network: tony"): "unknown network 'tony'",
        ("network: tiny", "hypernet: zoo/x\nnetwork: tiny"): "not both",
        ("network: tiny\n", ""): "weights goes with a network",
        ("seeds", "image_size: 0\nseeds"): "image_size is 0",
    }.items():
        path.write_text(text.replace(*change))
        assert words in refused("study", "run", path, code=2)
