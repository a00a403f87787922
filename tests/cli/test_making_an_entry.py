"""finetune, search, zoo verify: how an entry is made, on digits and too short to be good."""

import json

import pytest
import torch
import torchvision

import pass_transfer as pt


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file with the weights of a random ResNet-18."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(torchvision.models.resnet18(num_classes=10).state_dict(), path)
    return path


def test_a_backbone_is_made_and_resumed_and_refused(call, refused, weights, tmp_path):
    out = tmp_path / "backbone"
    arguments = ["finetune", "--weights", weights, "--task", "digits", "--image-size", "32"]
    arguments += ["--epochs", "1", "--device", "cpu", "--out", out]
    for flag, value in (("--epochs", "0"), ("--batch-size", "0"), ("--lr", "-1")):
        assert refused(*arguments, flag, value, code=2)
    for pixels in ("0", "513"):
        said = refused(*arguments, "--image-size", pixels, code=2)
        assert f"--image-size is {pixels}; it is a whole number from 1 to 512" in said
    assert "--size is now --image-size" in refused(*arguments, "--size", "32", code=2)
    assert "no weights file" in refused(*arguments, "--weights", tmp_path / "none.pth")
    assert "IMAGENET1K_V1" in refused(*arguments, "--weights", "IMAGENET9K")
    assert not out.exists()
    code, stdout, err = call(*arguments, "--json")
    assert code == 0, err
    result = json.loads(stdout)
    assert result == json.loads((out / "backbone.json").read_text())
    assert json.loads(call(*arguments, "--resume", "--json")[1]) == result
    assert "already holds a run" in refused(*arguments)


def test_search_refuses_a_folder_without_a_backbone(refused, tmp_path):
    said = refused("search", "--backbone", tmp_path, "--out", tmp_path / "run")
    assert "no backbone.json" in said and "finetune" in said
    assert not (tmp_path / "run").exists()


def test_a_search_on_an_entrys_backbone_keeps_it_and_trains_a_new_hypernetwork(
    call, entry, tmp_path
):
    out = tmp_path / "run"
    arguments = ["search", "--backbone", entry, "--tasks", "2", "--steps", "2"]
    arguments += ["--batch-size", "16", "--device", "cpu", "--hidden", "24", "--out", out]
    code, _, err = call(*arguments)
    assert code == 0, err
    old, new = pt.load_hypernet(entry), pt.load_hypernet(out / "entry")
    assert new.config["fingerprint"] == old.config["fingerprint"]
    assert new.fingerprint() != old.fingerprint()
    assert new.config["hypernet"]["hidden"] == 24
    assert call("zoo", "verify", out / "entry")[0] == 0
    assert "is already finished" in call(*arguments, "--resume")[2]
    assert not (out / "checkpoint").exists(), "a finished run keeps neither checkpoints nor a lock"
