"""A finished run's small network is cut again: adapt --from."""

import json
import shutil

import pytest
import torch

import pass_transfer as pt
from pass_transfer.errors import UsageError
from pass_transfer.files import read_tensors, sha256
from pass_transfer.networks import classifier_of, count_macs
from pass_transfer.recipes import adapter, pipeline

HERE = ["--epochs", "1", "--batch-size", "8", "--device", "cpu", "--no-report"]


@pytest.fixture(scope="module", autouse=True)
def no_clock():
    """Milliseconds are not what is tested, and take longest to measure."""

    def measured(networks, size, batches):
        return {name: dict.fromkeys(batches, 1.0) for name in networks}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapter, "measure_latency", measured)
        yield


@pytest.fixture(scope="module")
def first(entry, few_photos, tmp_path_factory):
    """A finished run whose network has a prompt; shared, not to be changed."""
    folder = tmp_path_factory.mktemp("first") / "run"
    options = {"epochs": 1, "batch_size": 8, "device": "cpu", "settings": {"steps": 1}}
    pt.adapt(entry, few_photos, out=folder, macs=0.5, **options)
    return folder


@pytest.fixture
def again(first, few_photos, tmp_path):
    """Arguments of an adapt of that run's network into tmp_path/again."""

    def arguments(*more, out="again"):
        given = ["adapt", "--from", first, "--task", few_photos, "--out", tmp_path / out]
        return [*given, *HERE, *more]

    return arguments


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def test_half_of_a_half_is_saved_as_a_network_of_the_architecture(
    again, first, few_photos, call, tmp_path
):
    code, _, err = call(*again("--macs", "0.5"))
    assert code == 0 and "the classifier of" in err and "a whole resnet18's" in err
    folder, before = tmp_path / "again", result_of(first)
    result, config = result_of(folder), json.loads((folder / "config.json").read_text())
    assert (result["dense_macs"], result["channels"]) == (before["macs"], before["channels_kept"])
    assert result["macs"] <= 0.5 * before["macs"] and result["whole_macs"] == before["dense_macs"]
    assert (result["hypernet"], result["from"], result["method"]) == (
        None,
        str(first),
        "selection",
    )
    assert config["from"] == sha256(first / "model.safetensors")
    one, two = pt.load_pruned(first), pt.load_pruned(folder)
    assert all(set(two.kept[name]) < set(one.kept[name]) or two.kept[name] == one.kept[name]
               for name in one.kept)  # fmt: skip
    assert {name: len(units) for name, units in two.kept.items()} == result["channels_kept"]
    assert count_macs(two.network, 32) == result["macs"] and two.network.prompt is not None
    code, out, _ = call("eval", folder, "--task", few_photos, "--device", "cpu", "--json")
    assert code == 0 and json.loads(out)["top1"] == result["top1"]
    assert call("report", folder)[0] == 0
    page = (folder / "report.html").read_text()
    assert f"--from {first}" in page and "which was cut before" in page
    export = call("export", folder, "--out", tmp_path / "small.pt2")
    assert export[0] == 0
    assert call("bench", folder, "--device", "cpu", "--batch", "1", "--rounds", "1",
                "--engine", "eager")[0] == 0  # fmt: skip


def test_the_channels_that_stay_keep_their_weights(entry, few_photos, tmp_path):
    """With no epoch that helps, nothing between two cuts but removal touches a convolution."""
    options = {"epochs": 1, "batch_size": 8, "device": "cpu", "reconstruct": False, "lr": 1e-12}
    one, two = tmp_path / "one", tmp_path / "two"
    pt.adapt(entry, few_photos, out=one, method="group_l1", macs=0.6, **options)
    pt.adapt(task=few_photos, from_run=one, out=two, method="group_l1", macs=0.6, **options)
    large, small = pt.load_pruned(one), pt.load_pruned(two)
    stem = [large.kept["conv1"].index(unit) for unit in small.kept["conv1"]]
    weights = (model.network.backbone.conv1.weight for model in (large, small))
    before, after = (weight.detach() for weight in weights)
    assert len(stem) < len(large.kept["conv1"])
    assert torch.allclose(after, before[stem], atol=1e-6)
    rows = (classifier_of(model.network.backbone).weight.detach() for model in (large, small))
    read, left = (model.kept["layer4.0.conv2"] for model in (large, small))
    last = [read.index(unit) for unit in left]
    before, after = rows
    assert torch.allclose(after, before[:, last], atol=1e-6), "the classifier is kept"


def test_a_network_is_cut_a_third_time_with_its_dense_one_and_a_teacher(
    again, few_photos, call, tmp_path
):
    assert call(*again("--method", "group_l1", "--macs", "0.6", "--with-dense"))[0] == 0
    second = tmp_path / "again"
    dense = pt.load_pruned(second / "dense")
    assert count_macs(dense.network, 32) == result_of(second)["dense_macs"]
    taught = ["--method", "group_l1", "--macs", "0.6", "--distill", "0.5"]
    assert call(*again(*taught, "--dense", second, out="taught"))[0] == 0
    assert result_of(tmp_path / "taught")["dense_top1"] == result_of(second)["dense_top1"]
    third = again("--method", "taylor", "--macs", "0.6", "--dense", second, out="third")
    third[third.index("--from") + 1] = second
    code, _, err = call(*third)
    assert code == 1 and "other channels than" in err
    del third[third.index("--dense") : third.index("--dense") + 2]
    assert call(*third)[0] == 0
    kept = [pt.load_pruned(tmp_path / name).kept for name in ("again", "third")]
    assert all(set(kept[1][name]) <= set(kept[0][name]) for name in kept[0])
    assert result_of(tmp_path / "third")["dense_macs"] == result_of(second)["macs"]


def test_a_run_that_was_stopped_ends_with_the_same_bytes(again, call, tmp_path, monkeypatch):
    more = ["--macs", "0.5", "--method", "taylor", "--set", "images=8"]
    assert call(*again(*more, out="whole"))[0] == 0

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "measure", stop)
        assert call(*again(*more))[0] == 130
    assert call(*again(*more, "--resume"))[0] == 0
    whole, resumed = tmp_path / "whole", tmp_path / "again"
    for name in ("model.safetensors", "masks.safetensors", "scores.safetensors", "model.json"):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes(), name


def test_resume_wants_the_same_network_wherever_it_lies(
    again, first, entry, few_photos, call, tmp_path
):
    more = ["--macs", "0.5", "--method", "group_l1"]
    assert call(*again(*more))[0] == 0
    moved = again(*more, "--resume")
    moved[moved.index("--from") + 1] = shutil.copytree(first, tmp_path / "moved")
    assert call(*moved)[0] == 0
    other = tmp_path / "other"
    options = {"epochs": 1, "batch_size": 8, "device": "cpu", "method": "random"}
    pt.adapt(entry, few_photos, out=other, **options)
    moved[moved.index("--from") + 1] = other
    code, _, err = call(*moved)
    assert code == 1 and "from was" in err


def test_another_task_gets_a_new_classifier(first, photos, call, tmp_path):
    task = f"folder:{photos(tmp_path / 'others', classes=('ant', 'bee', 'cow'), count=12)}"
    given = ["adapt", "--from", first, "--task", task, "--out", tmp_path / "other", *HERE]
    code, _, err = call(*given, "--method", "group_l1")
    assert code == 0 and "a new one, from class means" in err
    assert pt.load_pruned(tmp_path / "other").class_names == ("ant", "bee", "cow")


@pytest.mark.parametrize("method", ["prompt", "mask", "source_selection", "vpns"])
def test_methods_for_whole_networks_are_refused_with_the_others_named(again, refused, method):
    said = refused(*again("--method", method), code=2)
    assert f"the method {method} " in said and "selection, " in said


def test_what_does_not_go_with_a_run_is_refused(again, first, entry, few_photos, refused, tmp_path):
    both = refused(*again("--hypernet", entry), code=2)
    assert "--hypernet and --from are given" in both
    lone = ["adapt", "--task", few_photos, "--out", tmp_path / "x"]
    said = refused(*lone, code=2)
    assert "(--hypernet)" in said and "(--from)" in said and "none is given" in said
    weights = first / "model.safetensors"
    assert "(--backbone)" in refused(*again("--backbone", weights), code=2)
    unfinished = again()
    unfinished[unfinished.index("--from") + 1] = tmp_path
    assert "is no run of adapt" in refused(*unfinished)
    inside = again("--force")
    inside[inside.index("--out") + 1] = first
    assert "(--force)" in refused(*inside, code=2) and (first / "model.json").is_file()
    assert not (tmp_path / "again").exists()
    with pytest.raises(UsageError, match="task is missing"):
        pt.adapt(from_run=first, out=tmp_path / "again")


def test_its_weights_are_no_backbone_and_its_cuts_are_not_foreseen(
    again, first, adapting, entry, call, refused, tmp_path
):
    said = refused(*adapting("--backbone", first / "model.safetensors"))
    assert "a pruned resnet18" in said and f"run folder {first} (--from)" in said
    assert call(*again("--method", "group_l1"))[0] == 0
    asked = ["inspect", "--hypernet", entry, "--run", tmp_path / "again", "--no-latency"]
    assert "only cuts of whole networks" in refused(*asked)
    assert read_tensors(tmp_path / "again" / "masks.safetensors").keys()
