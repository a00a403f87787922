"""Weights that training starts from (benchmarks/starting_weights.py), and the narrow VGG-16."""

import runpy
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from pass_transfer.errors import BackboneError
from pass_transfer.networks import BackboneSpec, build_backbone, count_macs, load_weights
from pass_transfer.networks.narrow_vgg import WIDTH

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "starting_weights.py"))
deepened, completed = SCRIPT["deepened"], SCRIPT["completed"]


def used(network):
    """A network whose normalisations differ by channel, as training leaves them."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize(
    "shallow, deep, side", [("resnet18", "resnet34", 64), ("resnet50", "resnet101", 32)]
)
def test_a_deepened_network_computes_the_same_and_learns_in_the_new_blocks(shallow, deep, side):
    torch.manual_seed(0)
    small = used(build_backbone(BackboneSpec(shallow, 7, side)))
    large = build_backbone(BackboneSpec(deep, 7, side)).eval()
    large.load_state_dict(deepened(small, large))
    images = torch.randn(3, 3, side, side)
    logits = large(images)
    assert torch.equal(logits, small(images))
    logits.logsumexp(1).sum().backward()
    norm = "bn3" if deep == "resnet101" else "bn2"
    added = large.layer3[-1].get_submodule(norm)
    assert not added.weight.any() and added.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    "shallow, deep, tensor",
    [("resnet34", "resnet18", "layer1.2.bn1.bias"), ("resnet18", "resnet50", "fc.weight")],
)
def test_networks_that_do_not_belong_together_are_refused(shallow, deep, tensor):
    small, other = (build_backbone(BackboneSpec(name, 3, 32)) for name in (shallow, deep))
    with pytest.raises(BackboneError, match=f"{tensor} has shape"):
        deepened(small, other)


def test_a_part_is_completed_and_then_read_like_any_weights(tmp_path):
    torch.manual_seed(0)
    network = build_backbone(BackboneSpec("vgg16_narrow", 5, 64))
    whole = torchvision.models.vgg16(num_classes=5)
    part = {name: t for name, t in whole.state_dict().items() if name.startswith("features.")}
    state = completed(part, network)
    torch.save(state, tmp_path / "start.pth")
    spec = BackboneSpec("vgg16_narrow", 9, 64)
    other = build_backbone(spec)
    left = load_weights(other, spec, tmp_path / "start.pth")
    assert left == ["classifier.6.bias", "classifier.6.weight"]
    assert all(torch.equal(other.state_dict()[name], t) for name, t in part.items())
    with pytest.raises(BackboneError, match=r"features\.1\.weight has shape \(1,\)"):
        completed({"features.1.weight": torch.ones(1)}, network)


def test_the_narrow_vgg_is_torchvisions_but_for_the_width():
    narrow = build_backbone(BackboneSpec("vgg16_narrow", 5, 64)).eval()
    with torch.device("meta"):
        wide = torchvision.models.vgg16(num_classes=5)
    assert list(narrow.state_dict()) == list(wide.state_dict())
    changed = {
        name.rpartition(".")[0]
        for name, tensor in narrow.state_dict().items()
        if tensor.shape != wide.state_dict()[name].shape
    }
    assert changed == {"classifier.0", "classifier.3", "classifier.6"}
    assert narrow.classifier[0].out_features == WIDTH
    assert count_macs(narrow, 64) < 1.3e9
    assert narrow(torch.rand(2, 3, 64, 64)).shape == (2, 5)


def test_weights_of_torchvision_for_a_network_of_ours_are_refused():
    spec = BackboneSpec("vgg16_narrow", 2, 64)
    with pytest.raises(BackboneError, match="without weights to download"):
        load_weights(build_backbone(spec), spec, "IMAGENET1K_V1")
