"""The ranking that a prompt's masks correct: measured on the task, or the source's."""

import json

import torch

import pass_transfer as pt
from pass_transfer.files import read_tensors
from pass_transfer.recipes.adapt import stored_prompt


def kept(folder):
    return json.loads((folder / "result.json").read_text())["channels_kept"]


def test_it_is_the_tasks_unless_the_sources_is_asked_for(adapting, few_photos, entry, call, tmp_path):
    hypernet = pt.load_hypernet(entry)
    for name, more in (("default", []), ("task", ["--prior", "task"]), ("source", ["--prior", "source"]), ("mask", ["--transfer", "mask"])):
        out = tmp_path / name
        assert call(*adapting("--task", few_photos, "--out", out, "--prompt-steps", "0", *more))[0] == 0
        assert (out / "prior.safetensors").exists() == (name in ("default", "task"))
        found = json.loads(call("inspect", "--hypernet", entry, "--run", out, "--classes", "2", "--no-latency", "--json")[1])["groups"]
        assert {group["name"]: group["kept"] for group in found} == kept(out), "the dry run of a run is that run's"
    assert kept(tmp_path / "source") == kept(tmp_path / "mask")
    masks = {name: read_tensors(tmp_path / name / "masks.safetensors") for name in ("default", "task", "source")}
    assert all(torch.equal(masks["default"][group], masks["task"][group]) for group in hypernet.groups)
    assert any(not torch.equal(masks["default"][group], masks["source"][group]) for group in hypernet.groups)
    ours = pt.on_task(hypernet, few_photos, device="cpu")
    again = ours.generate_masks(stored_prompt(hypernet, tmp_path / "default"), macs=0.5, round_to=8, classes=2)
    assert all(torch.equal(again[group], masks["default"][group].bool()) for group in hypernet.groups)
    assert not ours.own_weights


def test_another_is_refused(adapting, few_photos, refused):
    assert "--prior is 'both'" in refused(*adapting("--task", few_photos, "--prior", "both"), code=2)
