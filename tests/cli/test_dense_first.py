"""adapt --dense-epochs: the dense network learns the task before it is scored and cut."""

import json

import pytest
import torch

import pass_transfer as pt
from pass_transfer.cli.main import run as command_line

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def first(entry, few_photos, tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("first") / "run"
    arguments = ["adapt", "--hypernet", entry, "--task", few_photos, "--out", folder]
    arguments += ["--epochs", "1", "--set", "steps=1", "--batch-size", "8", "--device", "cpu"]
    more = ["--dense-epochs", "2", "--with-dense"]
    assert command_line([str(a) for a in (*arguments, *more)]) == 0
    return folder


@pytest.fixture
def again(adapting, few_photos):
    """Arguments of an adapt like that, into another folder."""
    return lambda *more: adapting("--task", few_photos, "--batch-size", "8", "--reconstruct", *more)


def stages(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["stage"] for line in lines]


def test_the_task_is_learned_before_anything_is_chosen(first):
    assert stages(first) == ["dense", "dense", "prompt", "finetune", "compared"]
    result = json.loads((first / "result.json").read_text())
    assert result["dense_seconds"] > 0 and 0 <= result["dense_top1"] <= 100


def test_the_small_network_begins_as_the_one_that_is_kept(first, again, call, tmp_path):
    """With so small a learning rate that nothing is learned, what is left is a part of it."""
    still = ("--lr", "1e-12", "--weight-decay", "0", "--no-reconstruct", "--method", "selection")
    arguments = again("--dense", first, "--dense-epochs", "2", *still)
    assert call(*arguments)[0] == 0
    small, dense = pt.load_pruned(tmp_path / "run"), pt.load_pruned(first / "dense")
    layers = [model.network.backbone.layer4[0] for model in (small, dense)]
    rows = torch.tensor(small.kept["layer4.0.conv1"])
    norms = [layer.bn1.weight for layer in layers]
    assert torch.allclose(norms[0], norms[1][rows], atol=1e-6)
    left, values = layers[0].conv1.weight.flatten(), layers[1].conv1.weight[rows].flatten()
    places = torch.searchsorted(values.sort().values, left).clamp(max=len(values) - 1)
    assert (values.sort().values[places] - left).abs().max() < 1e-4, "each is one of its own"
    classifiers = [m.network.backbone.fc.bias for m in (small, dense)]
    assert torch.allclose(*classifiers, atol=1e-6), "it is kept"


def test_the_dense_network_that_is_kept_gives_the_same_small_one(first, again, call, tmp_path):
    code, out, err = call(*again("--dense", first, "--dense-epochs", "2", "--json"))
    assert code == 0, err
    run = tmp_path / "run"
    assert stages(run) == ["prompt", "finetune"] and not (run / "dense").exists()
    assert (run / WEIGHTS).read_bytes() == (first / WEIGHTS).read_bytes()
    assert json.loads(out)["dense_top1"] is None, "it was not asked for"


def test_other_epochs_of_it_are_another_run(first, again, call):
    code, _, err = call(*again("--out", first, "--dense-epochs", "1", "--resume"))
    assert code == 1 and "dense_epochs was 2" in err


def test_fewer_than_none_are_refused(again, refused):
    assert "--dense-epochs is -1" in refused(*again("--dense-epochs", "-1"), code=2)
