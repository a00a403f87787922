"""One's own weights in place of an entry's, from the checkpoint to the run."""

import json

import pytest
import torch

import pass_transfer as pt
from pass_transfer.cli.main import run as command_line
from pass_transfer.errors import BackboneError
from pass_transfer.files import read_tensors, write_tensors
from pass_transfer.networks import BackboneSpec, build_backbone
from pass_transfer.scoring.hypernet import Hypernet
from pass_transfer.scoring.magnitude import group_l1
from pass_transfer.scoring.prior import standardise

SIDE = 32


def network(classes=2, seed=7, architecture="resnet18"):
    """Random weights, nothing like the entry's."""
    torch.manual_seed(seed)
    return build_backbone(BackboneSpec(architecture, classes, SIDE)).eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A file with weights and a classifier of two classes."""
    path = tmp_path_factory.mktemp("checkpoint") / "mine.safetensors"
    write_tensors(path, network().state_dict())
    return path


@pytest.fixture(scope="module")
def own_run(entry, checkpoint, few_photos, tmp_path_factory):
    """The folder of a finished run on the checkpoint, and its arguments."""
    folder = tmp_path_factory.mktemp("own") / "run"
    arguments = ["adapt", "--hypernet", entry, "--backbone", checkpoint, "--task", few_photos]
    arguments += ["--out", folder, "--epochs", "1", "--set", "steps=1", "--batch-size", "8"]
    arguments += ["--device", "cpu"]
    assert command_line([str(a) for a in arguments]) == 0
    return folder, arguments


@pytest.mark.parametrize("method", ["selection", "taylor"])
def test_a_method_is_measured_on_the_new_weights(
    entry, checkpoint, few_photos, call, tmp_path, method
):
    given = ["adapt", "--hypernet", entry, "--task", few_photos, "--epochs", "1"]
    given += ["--batch-size", "8", "--device", "cpu", "--method", method]
    assert call(*given, "--backbone", checkpoint, "--out", tmp_path / "mine")[0] == 0
    assert call(*given, "--out", tmp_path / "its")[0] == 0
    mine, its = (read_tensors(tmp_path / name / "scores.safetensors") for name in ("mine", "its"))
    assert any(not torch.equal(mine[name], its[name]) for name in its)
    loaded = pt.own_backbone(pt.load_hypernet(entry), checkpoint, few_photos, device="cpu")
    same_way = {"epochs": 1, "batch_size": 8, "device": "cpu", "method": method}
    pt.adapt(loaded, str(few_photos), out=tmp_path / "again", **same_way)
    again = read_tensors(tmp_path / "again" / "scores.safetensors")
    for name in mine:
        assert torch.equal(again[name], mine[name]), "not the prior that the loaded one came with"


def test_the_hypernetwork_reads_the_new_weights_and_corrects_the_new_prior(entry):
    hypernet, mine = pt.load_hypernet(entry), network(3)
    before = hypernet.fingerprint()
    other = hypernet.with_backbone(mine)
    prior = standardise(group_l1(mine, hypernet.groups))
    learned = {n: t for n, t in hypernet.net.state_dict().items() if n != "prior"}
    expected = Hypernet(hypernet.net.config, mine, hypernet.groups, prior)
    expected.load_state_dict(learned, strict=False)
    prompt = hypernet.prompt()
    with torch.no_grad():
        prompt.values.mul_(100)
        scores = expected.double()(prompt.frame().double())
    assert torch.allclose(hypernet.groups.join(other.scores(prompt)), scores, atol=1e-9)
    only_prior = Hypernet(hypernet.net.config, hypernet.backbone(), hypernet.groups, prior)
    only_prior.load_state_dict(learned, strict=False)
    by_prior = only_prior.double()(prompt.frame().double())
    assert not torch.allclose(by_prior, scores, atol=1e-3), "the weights count, too"
    assert hypernet.fingerprint() == before != other.fingerprint() and other.spec.classes == 3
    taken, given = other.backbone().state_dict(), mine.state_dict()
    assert all(torch.equal(tensor, given[name]) for name, tensor in taken.items())


def test_a_network_of_another_architecture_and_a_prior_of_other_groups_are_refused(entry):
    hypernet = pt.load_hypernet(entry)
    with pytest.raises(BackboneError, match="layer"):
        hypernet.with_backbone(network(architecture="resnet34"))
    with pytest.raises(BackboneError, match="prior"):
        hypernet.with_backbone(network(), {"conv1": torch.zeros(64)})


def test_channels_that_do_nothing_for_the_task_lose_all_that_large_weights_gain_them(
    entry, few_photos, tmp_path
):
    mine = network()
    block = mine.layer2[0]
    with torch.no_grad():  # outputs of a convolution that BatchNorm silences: large, of no use
        block.conv1.weight[:40] *= 3
        block.bn1.weight[:40], block.bn1.bias[:40] = 0, 0
    write_tensors(tmp_path / "w.safetensors", mine.state_dict())
    hypernet = pt.load_hypernet(entry)
    own = pt.own_backbone(hypernet, tmp_path / "w.safetensors", few_photos, device="cpu")
    name = next(n for n, g in own.groups.items() if "layer2.0.conv1" in g.writes)
    by_use, by_size = (h.scores(h.prompt())[name] for h in (own, hypernet.with_backbone(mine)))
    ahead_by_size, ahead_by_use = (s[:40].mean() - s[40:].mean() for s in (by_size, by_use))
    assert ahead_by_size > 1, "their weights alone would keep them"
    assert ahead_by_use < 0.1, "nothing of that is left"


def test_a_run_on_ones_own_weights(own_run, few_photos, entry, call):
    folder, arguments = own_run
    names = ("config.json", "result.json")
    config, result = (json.loads((folder / name).read_text()) for name in names)
    own = pt.load_hypernet(entry).with_backbone(network())
    assert config["backbone"] == own.config["fingerprint"]
    assert result["macs"] <= 0.5 * result["dense_macs"]
    assert read_tensors(folder / "scores.safetensors").keys() == result["channels_kept"].keys()
    code, out, _ = call("eval", folder, "--task", few_photos, "--device", "cpu", "--json")
    assert code == 0 and json.loads(out)["top1"] == result["top1"]
    assert json.loads(call(*arguments, "--resume", "--json")[1]) == result


def test_the_dry_run_of_a_run_on_ones_own_weights_needs_them(
    own_run, checkpoint, entry, call, refused
):
    folder, _ = own_run
    kept = json.loads((folder / "result.json").read_text())["channels_kept"]
    asked = ["inspect", "--hypernet", entry, "--run", folder, "--no-latency", "--json"]
    code, out, err = call(*asked, "--backbone", checkpoint)
    found = {group["name"]: group["kept"] for group in json.loads(out)["groups"]}
    assert code == 0 and found == kept
    assert "was trained on its own backbone's weights" in err
    assert "as --backbone" in refused(*asked)


def test_resume_with_other_weights_is_refused_and_with_the_same_in_another_place_is_not(
    own_run, checkpoint, call, tmp_path
):
    folder, arguments = own_run
    write_tensors(tmp_path / "other.safetensors", network(seed=8).state_dict())
    code, out, err = call(*arguments, "--resume", "--backbone", tmp_path / "other.safetensors")
    assert (code, out) == (1, "") and "backbone was" in err
    write_tensors(tmp_path / "same.safetensors", network().state_dict())
    assert call(*arguments, "--resume", "--backbone", tmp_path / "same.safetensors")[0] == 0
    code, _, err = call(*[a for a in arguments if a not in ("--backbone", checkpoint)], "--resume")
    assert code == 1 and "backbone was" in err


@pytest.mark.parametrize("classes, words", [(2, "mapped one to one"), (7, "class means")])
def test_the_classifier_is_kept_where_it_may_be_the_tasks(
    adapting, few_photos, call, monkeypatch, tmp_path, classes, words
):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pass_transfer.recipes.adapt.open_folder", stop)
    write_tensors(tmp_path / "w.safetensors", network(classes).state_dict())
    code, _, err = call(*adapting("--task", few_photos, "--backbone", tmp_path / "w.safetensors"))
    assert code == 130 and words in err and f"a classifier of {classes} classes" in err


def test_a_checkpoint_without_a_classifier_gets_a_new_one(
    adapting, few_photos, call, refused, tmp_path
):
    state = {f"model.{n}": t for n, t in network().state_dict().items() if not n.startswith("fc.")}
    write_tensors(tmp_path / "w.safetensors", state)
    given = ["--task", few_photos, "--backbone", tmp_path / "w.safetensors", "--batch-size", "8"]
    code, _, err = call(*adapting(*given))
    assert code == 0 and "without a classifier" in err and "from class means" in err
    assert pt.load_pruned(tmp_path / "run").spec.classes == 2
    assert call(*adapting(*given, "--resume"))[0] == 0
    mapped = adapting(*given, "--label-mapping", "frequency", "--force")
    code, _, err = call(*mapped)
    assert code == 2 and "has no classifier" in err and "'linear'" in err


def test_adapt_takes_a_hypernetwork_on_ones_own_weights_with_the_prior_it_has(
    entry, few_photos, tmp_path
):
    trained, random = pt.load_hypernet(entry), torch.Generator().manual_seed(3)
    widths = {name: group.width for name, group in trained.groups.items()}
    prior = {name: torch.randn(width, generator=random) for name, width in widths.items()}
    hypernet, out = trained.with_backbone(network(), prior), tmp_path / "run"
    same_way = {"epochs": 1, "batch_size": 8, "device": "cpu", "reconstruct": False}
    pt.adapt(hypernet, few_photos, out=out, settings={"steps": 0}, **same_way)
    found, expected = read_tensors(out / "scores.safetensors"), hypernet.scores(hypernet.prompt())
    assert found.keys() == prior.keys()
    assert all(torch.equal(found[name], expected[name]) for name in prior)


@pytest.mark.parametrize(
    "change, word",
    [
        ({"layer3.0.bn1.bias": None}, "layer3.0.bn1.bias is missing"),
        ({"extra": torch.zeros(2)}, "unknown tensor extra"),
        ({"conv1.weight": torch.zeros(64, 3, 3, 3)}, "conv1.weight has shape"),
        ({"bn1.weight": torch.full((64,), float("inf"))}, "bn1.weight holds"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_before_anything_is_written(
    adapting, refused, tmp_path, change, word
):
    changed = network().state_dict() | change
    kept = {name: tensor for name, tensor in changed.items() if tensor is not None}
    write_tensors(tmp_path / "w.safetensors", kept)
    assert word in refused(*adapting("--backbone", tmp_path / "w.safetensors"))
    assert not (tmp_path / "run").exists()


def test_a_pickle_is_refused_with_the_command_that_converts_it(adapting, call, tmp_path):
    torch.save(network().state_dict(), tmp_path / "w.pth")
    code, out, err = call(*adapting("--backbone", tmp_path / "w.pth"))
    assert (
        (code, out) == (1, "")
        and "pass-transfer convert" in err
        and not (tmp_path / "run").exists()
    )
