"""adapt with a teacher: the dense network is trained first, kept, and taken again."""

import json

import pytest

import pass_transfer as pt
from pass_transfer.cli.main import run as command_line
from pass_transfer.networks import count_parameters


@pytest.fixture(scope="module")
def taught(entry, few_photos, tmp_path_factory):
    """The folder of a finished run with --distill."""
    folder = tmp_path_factory.mktemp("taught") / "run"
    arguments = ["adapt", "--hypernet", entry, "--task", few_photos, "--out", folder]
    arguments += ["--epochs", "1", "--set", "steps=1", "--batch-size", "8", "--device", "cpu"]
    assert command_line([str(a) for a in (*arguments, "--distill", "0.5")]) == 0
    return folder


@pytest.fixture
def again(adapting, few_photos):
    """Arguments of the same adapt into another folder, without distillation."""
    return lambda *more: adapting("--task", few_photos, "--batch-size", "8", "--reconstruct", *more)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_dense_network_is_trained_before_the_small_one_and_kept(taught, few_photos, call):
    result = json.loads((taught / "result.json").read_text())
    dense = pt.load_pruned(taught / "dense")
    assert [row["stage"] for row in rows(taught)] == ["prompt", "dense", "finetune"]
    assert count_parameters(dense.network.backbone) == result["dense_parameters"]
    assert {name: len(kept) for name, kept in dense.kept.items()} == result["channels"]
    code, out, _ = call("eval", taught / "dense", "--task", few_photos, "--device", "cpu", "--json")
    assert code == 0 and json.loads(out)["top1"] == result["dense_top1"]
    assert 0 < result["dense_seconds"] < result["seconds"]


def test_a_dense_network_that_is_kept_gives_the_same_small_one_without_training_it(
    taught, call, again, tmp_path
):
    arguments = again("--distill", "0.5", "--dense", taught, "--json")
    code, out, err = call(*arguments)
    assert code == 0, err
    result, first = json.loads(out), json.loads((taught / "result.json").read_text())
    run = tmp_path / "run"
    assert "dense 1/1" not in err and not (run / "dense").exists()
    assert [row["stage"] for row in rows(run)] == ["prompt", "finetune"]
    assert (result["dense_top1"], result["dense_seconds"]) == (first["dense_top1"], None)
    weights = "model.safetensors"
    assert (run / weights).read_bytes() == (taught / weights).read_bytes()
    code, _, err = call(*again("--distill", "0.5", "--resume"))
    assert code == 1 and "teacher was" in err


def test_without_distillation_a_kept_dense_network_only_compares(taught, call, again, tmp_path):
    result = json.loads(call(*again("--dense", taught / "dense", "--json"))[1])
    assert result["dense_top1"] == json.loads((taught / "result.json").read_text())["dense_top1"]
    assert pt.load_pruned(tmp_path / "run").kept == pt.load_pruned(taught).kept
    losses = [rows(run)[-1]["train_loss"] for run in (tmp_path / "run", taught)]
    assert losses[0] != losses[1], "the labels alone teach here"
    assert call(*again("--resume"))[0] == 0, "it decides nothing about the small network"


def test_bench_takes_the_dense_network_that_is_kept(taught, call, monkeypatch):
    def refuse(_):
        raise AssertionError("random weights, though trained ones are there")

    monkeypatch.setattr("pass_transfer.recipes.bench._untrained", refuse)
    measured_once = ("--batch", "1", "--engine", "eager", "--rounds", "1")
    code, out, _ = call("bench", taught, *measured_once, "--device", "cpu", "--json")
    assert code == 0 and {row["network"] for row in json.loads(out)["rows"]} == {"small", "dense"}


def test_a_small_network_or_one_for_another_task_is_no_dense_network(
    finished, taught, refused, adapting, again, entries, tmp_path
):
    assert "holds a small network" in refused(*adapting("--dense", finished))
    assert "not a finished run" in refused(*again("--dense", tmp_path / "none"))
    said = refused(*adapting("--dense", taught))
    assert "needed is a resnet18 at 32 pixels for 10 classes (0, ...)" in said
    assert "of digits" in said
    larger = entries(architecture="resnet34")
    assert "needed is a resnet34" in refused(*again("--hypernet", larger, "--dense", taught))
    assert not (tmp_path / "run").exists()
    said = refused(*again("--out", taught, "--dense", taught, "--force"), code=2)
    assert "would be replaced (--force)" in said
    assert (taught / "dense" / "model.safetensors").exists()
