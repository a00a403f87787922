"""The ranking that a prompt's masks correct, and methods that take its place."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import pass_transfer as pt
from pass_transfer.files import read_tensors
from pass_transfer.runs.found import stored_prompt

NO_STEPS = ("--set", "steps=0")  # the prompt stays the source's
WAYS = {
    "default": NO_STEPS,
    "task": (*NO_STEPS, "--set", "prior=task"),
    "source": (*NO_STEPS, "--set", "prior=source"),
    "mask": ("--method", "mask"),
}


def kept_of(folder):
    return json.loads((folder / "result.json").read_text())["channels_kept"]


def masks_of(folder):
    masks = read_tensors(folder / "masks.safetensors")
    return {name: mask.bool() for name, mask in masks.items()}


def same(one, other):
    """Whether both hold the same tensors under the same names."""
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.fixture
def previewed(call, entry):
    """Run folder -> what the dry run of that run says."""

    def preview(run, *more):
        asked = ["inspect", "--hypernet", entry, "--run", run, "--no-latency", "--json", *more]
        return json.loads(call(*asked)[1])

    return preview


def test_it_is_the_tasks_unless_the_sources_is_asked_for(
    adapting, few_photos, entry, call, previewed, tmp_path
):
    hypernet, scores = pt.load_hypernet(entry), {}
    for name, more in WAYS.items():
        out = tmp_path / name
        code, _, err = call(*adapting("--task", few_photos, "--out", out, *more))
        assert code == 0
        measured = "measuring every channel's importance on 18 images" in err
        assert measured == (name in ("default", "task"))
        scores[name] = read_tensors(out / "scores.safetensors")
        found = previewed(out)["groups"]
        kept = {group["name"]: group["kept"] for group in found}
        assert kept == kept_of(out), "the dry run of a run is that run's"
    assert kept_of(tmp_path / "source") == kept_of(tmp_path / "mask")
    assert same(scores["default"], scores["task"]) and same(scores["source"], scores["mask"])
    assert same(scores["source"], hypernet.scores(hypernet.prompt()))
    assert not same(scores["default"], scores["source"])
    masks = {name: masks_of(tmp_path / name) for name in WAYS}
    assert same(masks["default"], masks["task"]) and not same(masks["default"], masks["source"])
    ours = pt.on_task(hypernet, few_photos, device="cpu")
    prompt = stored_prompt(hypernet.prompt(), tmp_path / "default")
    again = ours.generate_masks(prompt, macs=0.5, classes=2)
    assert same(dict(again), masks["default"]) and not ours.own_weights


def test_forward_selection_takes_the_place_of_a_prompt(
    adapting, few_photos, entry, call, previewed, tmp_path
):
    hypernet, out = pt.load_hypernet(entry), tmp_path / "run"
    asked = adapting("--task", few_photos, "--out", out, "--method", "selection")
    code, printed, err = call(*asked)
    assert code == 0 and "forward selection of the channels" in err
    assert "method selection" in " ".join(printed.split())
    assert "without prompt" not in printed
    assert not (out / "prompt.safetensors").exists()
    assert pt.load_pruned(out).network.prompt is None
    result = json.loads((out / "result.json").read_text())
    assert result["top1_without_prompt"] is None and result["method"] == "selection"
    shown = [Path(picture).stem for picture in pt.write_report(out)["pictures"]]
    assert "accuracy" in shown and "prompt" not in shown
    scores, masks = read_tensors(out / "scores.safetensors"), masks_of(out)
    assert scores.keys() == masks.keys() == set(hypernet.groups)
    for name, kept in masks.items():
        first_ones = kept.all() or scores[name][kept].min() >= scores[name][~kept].max()
        assert first_ones, "the first ones of the order are kept"
    assert any(len(set(values.tolist())) > 2 for values in scores.values())
    found = previewed(out)
    assert {group["name"]: group["kept"] for group in found["groups"]} == kept_of(out)
    assert found["macs"] == result["macs"], "with as many classes as the run"
    assert found["dense_parameters"] == result["dense_parameters"]
    config = json.loads((out / "config.json").read_text())
    assert config["method"] == "selection"
    assert config["settings"] == {"uniform": False, "coupling": "grouped", "images": 2048}


def test_another_is_refused(adapting, few_photos, refused, tmp_path):
    asked = adapting("--task", few_photos)
    said = refused(*asked, "--set", "prior=both", code=2)
    assert "prior is 'both'; choose one of task, source" in said
    said = refused(*asked, "--method", "none", code=2)
    assert "unknown method 'none'; choose one of " in said and "selection" in said
    assert not (tmp_path / "run").exists()


def test_a_hypernetwork_that_takes_no_prompt_leaves_the_order_of_a_selection_as_it_is(
    few_photos, entry, tmp_path
):
    deaf = pt.load_hypernet(entry)
    deaf.net.config = dataclasses.replace(deaf.net.config, uses_prompt=False)
    same_way = {"method": "selection", "epochs": 1, "batch_size": 8, "device": "cpu"}
    pt.adapt(deaf, few_photos, out=tmp_path / "deaf", reconstruct=False, **same_way)
    pt.adapt(entry, few_photos, out=tmp_path / "hears", reconstruct=False, **same_way)
    assert same(masks_of(tmp_path / "deaf"), masks_of(tmp_path / "hears"))
