"""Networks other than ResNets: masks, costs, files, and the whole of adapt; slow tests."""

import gc
import json
import subprocess
import sys

import pytest
import torch
from torch import nn

import pass_transfer as pt
from pass_transfer.masking import masked
from pass_transfer.networks import (
    BackboneSpec,
    CostTable,
    build_backbone,
    count_macs,
    count_parameters,
    find_groups,
)
from pass_transfer.networks.removal import remove_channels, resize_like
from pass_transfer.scoring.hypernet import Hypernet, HypernetConfig

SIDE = 32
SMALL = ["mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0"]
LARGE = ["vgg11", "vgg11_bn", "vgg16", "vgg16_bn", "vgg16_narrow"]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}  # of the largest logit
QUICK = ["--epochs", 1, "--batch-size", 64, "--device", "cpu", "--no-reconstruct", "--no-report"]


def trained_alike(architecture: str) -> nn.Module:
    """A network whose normalisations and biases differ by channel, as training leaves them."""
    torch.manual_seed(1)
    network = build_backbone(BackboneSpec(architecture, 10, SIDE)).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
        elif isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.normal_(module.bias, 0, 0.1)
    return network


@pytest.mark.parametrize("architecture", SMALL + LARGE)
def test_masks_costs_and_sizes_agree_with_the_network_after_removal(architecture, random_masks):
    network = trained_alike(architecture)
    groups = find_groups(network, SIDE)
    table = CostTable(network, groups, SIDE)
    assert table.dense_parameters == count_parameters(network)
    for number, dtype in enumerate(TOLERANCE):
        network = network.to(dtype)
        masks = random_masks(groups, number, 0.3)
        images = torch.randn(2, 3, SIDE, SIDE, dtype=dtype)
        small = remove_channels(network, masks, groups)
        with torch.no_grad():
            with masked(network, groups, masks):
                expected = network(images)
            found = small(images)
        assert (found - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()
        assert table.macs(masks.kept) == count_macs(small, SIDE)
        assert table.parameters(masks.kept) == count_parameters(small)
    with torch.device("meta"):
        rebuilt = build_backbone(BackboneSpec(architecture, 10, SIDE))
    resize_like(rebuilt, {n: t.shape for n, t in small.state_dict().items()})
    for one, other in zip(rebuilt.modules(), small.modules()):
        assert one.extra_repr() == other.extra_repr()
    gc.collect()


@pytest.mark.parametrize("architecture", ["mobilenet_v3_small", "vgg11"])
def test_linear_layers_that_write_channels_are_steps_with_scores(architecture):
    network = trained_alike(architecture)
    groups = find_groups(network, SIDE)
    convolutions = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    linear = [n for n, m in network.named_modules() if isinstance(m, nn.Linear)]
    assert list(groups.steps) == convolutions + linear[:-1]
    assert set(linear[:-1]) <= set(groups)
    net = Hypernet(HypernetConfig(prior="none"), network, groups)
    scores = groups.split(net(0.1 * torch.randn(3, SIDE, SIDE)))
    assert all(scores[name].std() > 0 for name in linear[:-1])


def test_squeeze_and_excitation_reads_the_group_that_it_multiplies(networks):
    groups = networks("mobilenet_v3_small")[1]
    block = groups["features.4.block.0.0"]
    assert list(block.writes)[:3] == [
        "features.4.block.0.0",
        "features.4.block.1.0",
        "features.4.block.2.fc2",
    ]
    assert list(block.reads) == ["features.4.block.2.fc1", "features.4.block.3.0"]


LOAD = """
import sys, torch
import pass_transfer as pt
images = torch.full((2, 3, 32, 32), 0.4)
with torch.no_grad():
    print(pt.load_pruned(sys.argv[1])(images)[0].tolist())
"""


def adapts_loads_and_exports(call, entry, out, *how):
    """Run adapt on the digits, load the small network in another process, and export it."""
    code, _, err = call(
        "adapt", "--hypernet", entry, "--task", "digits", "--out", out, *QUICK, *how
    )
    assert code == 0, err
    result = json.loads((out / "result.json").read_text())
    model = pt.load_pruned(out)
    assert count_macs(model.network, SIDE) == result["macs"] < result["dense_macs"]
    assert count_parameters(model.network.backbone) == result["parameters"]
    with torch.no_grad():
        expected = model(torch.full((2, 3, SIDE, SIDE), 0.4))[0].tolist()
    fresh = subprocess.run(
        [sys.executable, "-c", LOAD, str(out)], capture_output=True, text=True, check=True
    )
    assert json.loads(fresh.stdout) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    written = model.export(out.parent / "small.onnx")
    assert written["difference"] <= 1e-4
    gc.collect()


@pytest.mark.parametrize(
    "architecture, how",
    [
        ("mobilenet_v3_small", ["--set", "steps=1"]),
        ("mobilenet_v3_large", ["--method", "mask"]),
        ("vgg16", ["--method", "mask", "--density", 0.2]),
        ("vgg16_bn", ["--method", "mask", "--density", 0.2]),
    ],
)
def test_they_adapt_to_the_digits(call, own_entry, tmp_path, architecture, how):
    entry = own_entry(architecture, trained_alike(architecture))
    adapts_loads_and_exports(call, entry, tmp_path / "run", *how)
