"""The ranking that a prompt's masks correct: measured on the task, or the source's."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import pass_transfer as pt
from pass_transfer.errors import UsageError
from pass_transfer.files import read_tensors
from pass_transfer.recipes.adapt import stored_prompt


def kept_of(folder):
    return json.loads((folder / "result.json").read_text())["channels_kept"]


def test_it_is_the_tasks_unless_the_sources_is_asked_for(
    adapting, few_photos, entry, call, tmp_path
):
    hypernet = pt.load_hypernet(entry)
    for name, more in (
        ("default", []),
        ("task", ["--prior", "task"]),
        ("source", ["--prior", "source"]),
        ("mask", ["--transfer", "mask"]),
    ):
        out = tmp_path / name
        assert (
            call(*adapting("--task", few_photos, "--out", out, "--prompt-steps", "0", *more))[0]
            == 0
        )
        assert (out / "prior.safetensors").exists() == (name in ("default", "task"))
        found = json.loads(
            call(
                "inspect",
                "--hypernet",
                entry,
                "--run",
                out,
                "--classes",
                "2",
                "--no-latency",
                "--json",
            )[1]
        )["groups"]
        assert {group["name"]: group["kept"] for group in found} == kept_of(out), (
            "the dry run of a run is that run's"
        )
    assert kept_of(tmp_path / "source") == kept_of(tmp_path / "mask")
    masks = {
        name: read_tensors(tmp_path / name / "masks.safetensors")
        for name in ("default", "task", "source")
    }
    assert all(
        torch.equal(masks["default"][group], masks["task"][group]) for group in hypernet.groups
    )
    assert any(
        not torch.equal(masks["default"][group], masks["source"][group])
        for group in hypernet.groups
    )
    ours = pt.on_task(hypernet, few_photos, device="cpu")
    again = ours.generate_masks(
        stored_prompt(hypernet, tmp_path / "default"), macs=0.5, round_to=8, classes=2
    )
    assert all(
        torch.equal(again[group], masks["default"][group].bool()) for group in hypernet.groups
    )
    assert not ours.own_weights


def test_forward_selection_takes_the_place_of_a_prompt(adapting, few_photos, entry, call, tmp_path):
    hypernet, out = pt.load_hypernet(entry), tmp_path / "run"
    code, printed, err = call(
        *adapting("--task", few_photos, "--out", out, "--transfer", "selection")
    )
    assert (
        code == 0
        and "selection transfer" in " ".join(printed.split())
        and "forward selection of the channels" in err
    )
    scores = read_tensors(out / "prior.safetensors")
    assert (
        not stored_prompt(hypernet, out).values.any() and pt.load_pruned(out).network.prompt is None
    )
    assert (
        json.loads((out / "result.json").read_text())["top1_without_prompt"] is None
        and "without prompt" not in printed
    )
    shown = [Path(picture).stem for picture in pt.write_report(out)["pictures"]]
    assert "accuracy" in shown and "prompt" not in shown
    ours = pt.on_task(hypernet, few_photos, device="cpu", ranking="selection")
    assert all(
        torch.equal(ours.groups.split(ours.net.prior)[name], scores[name])
        for name in hypernet.groups
    )
    again = ours.generate_masks(stored_prompt(hypernet, out), macs=0.5, round_to=8, classes=2)
    masks = read_tensors(out / "masks.safetensors")
    for name in hypernet.groups:
        kept = masks[name].bool()
        assert torch.equal(again[name], kept)
        assert kept.all() or scores[name][kept].min() >= scores[name][~kept].max(), (
            "the first ones of the order are kept"
        )
    assert any(len(set(values.tolist())) > 2 for values in scores.values())
    found, result = (
        json.loads(call("inspect", "--hypernet", entry, "--run", out, "--no-latency", "--json")[1]),
        json.loads((out / "result.json").read_text()),
    )
    assert {group["name"]: group["kept"] for group in found["groups"]} == kept_of(out)
    assert (
        found["macs"] == result["macs"] and found["dense_parameters"] == result["dense_parameters"]
    ), "with as many classes as the run"
    assert (
        not {"prior", "prompt_steps", "prompt_lr", "deploy_prompt"}
        & json.loads((out / "config.json").read_text()).keys()
    )


def test_another_is_refused(adapting, few_photos, refused, entry):
    assert "--prior is 'both'" in refused(
        *adapting("--task", few_photos, "--prior", "both"), code=2
    )
    assert "--transfer is 'none'; choose one of prompt, mask, selection" in refused(
        *adapting("--task", few_photos, "--transfer", "none"), code=2
    )
    with pytest.raises(UsageError, match="ranking is 'both'; choose one of importance, selection"):
        pt.on_task(pt.load_hypernet(entry), few_photos, ranking="both")


def test_a_hypernetwork_that_hears_no_prompt_cannot_leave_the_order_as_it_is(
    few_photos, entry, tmp_path
):
    deaf = pt.load_hypernet(entry)
    deaf.net.config = dataclasses.replace(deaf.net.config, uses_prompt=False)
    with pytest.raises(UsageError, match="--transfer selection: .* hears no prompt"):
        pt.adapt(deaf, str(few_photos), out=tmp_path / "run", transfer="selection")
    assert not (tmp_path / "run").exists()
