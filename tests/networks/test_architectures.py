"""Networks of every family: masks, costs, files, and the whole of adapt; slow tests."""

import gc
import json
import subprocess
import sys
from importlib.util import find_spec

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
from pass_transfer.networks.network import Network
from pass_transfer.networks.removal import remove_channels
from pass_transfer.pruned import PrunedModel
from pass_transfer.scoring.hypernet import Hypernet, HypernetConfig

SIDE, CLASSES = 32, 10
SIDES = {"alexnet": 64, "vit_b_32": 64, "swin_t": 64, "swin_v2_t": 64}  # the others take SIDE
# One of each family, which is also saved and exported.
FAMILIES = """
    alexnet vgg11_bn resnet18 resnext50_32x4d densenet121 googlenet shufflenet_v2_x0_5 mobilenet_v2
    mobilenet_v3_small mnasnet0_5 efficientnet_b0 efficientnet_v2_s regnet_y_400mf convnext_tiny
    vit_b_32 swin_t swin_v2_t squeezenet1_1
""".split()
OTHERS = """
    vgg11 vgg13 vgg13_bn vgg16 vgg16_bn vgg16_narrow vgg19 vgg19_bn resnet50 wide_resnet50_2
    shufflenet_v2_x1_0 mobilenet_v3_large regnet_x_400mf vit_b_16 squeezenet1_0
""".split()
OF_TIMM = [
    "timm/resnet50d",
    "timm/resnext50_32x4d",
    "timm/ecaresnet26t",
    "timm/efficientnet_lite0",
    "timm/mobilenetv4_conv_small",
    "timm/convnext_tiny",
    "timm/vit_small_patch16_224",
    "timm/deit3_small_patch16_224",
    "timm/swin_tiny_patch4_window7_224",
]
DRAWN, DRAWN_LARGE, LARGE = 20, 2, 20_000_000  # sets of masks; a large network's parameters
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}  # of the largest logit
QUICK = ["--epochs", 1, "--batch-size", 64, "--device", "cpu", "--no-reconstruct", "--no-report"]


def spec_of(name: str) -> BackboneSpec:
    """The network by name, at a small size."""
    side = 64 if name.startswith("timm/") else SIDES.get(name, SIDE)
    return BackboneSpec(name, CLASSES, side)


def built(spec: BackboneSpec) -> nn.Module:
    """A network with random weights."""
    if spec.architecture.startswith("timm/"):
        pytest.importorskip("timm")
    return build_backbone(spec)


def trained_alike(name: str) -> nn.Module:
    """A network whose channels, places and heads differ, as training leaves them."""
    torch.manual_seed(1)
    network = built(spec_of(name)).eval()
    for parameter_name, parameter in network.named_parameters():
        if parameter_name.endswith("bias"):
            nn.init.normal_(parameter, 0, 0.1)
        elif parameter.ndim == 1 or not parameter.any():  # normalisations, layer scales, new heads
            nn.init.uniform_(parameter, 0.5, 1.5)
        elif any(part in parameter_name for part in ("layer_scale", "pos_", "table", "_token")):
            nn.init.uniform_(parameter, 0.2, 1)
    for buffer_name, buffer in network.named_buffers():
        if buffer_name.endswith("running_mean"):
            buffer.normal_(0, 0.3)
        elif buffer_name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return network


def drawn(groups, parameters, random_masks):
    """Sets of masks: the first keeps about a third, the others any share."""
    count = DRAWN if parameters < LARGE else DRAWN_LARGE
    return [random_masks(groups, number, None if number else 0.3) for number in range(count)]


def differs(masks_of, network, groups, small, images):
    """How far a network is from the same under masks, as a share of the largest logit."""
    with torch.no_grad():
        with masked(network, groups, masks_of):
            expected = network(images)
        return ((small(images) - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", FAMILIES + OTHERS + OF_TIMM)
def test_masks_and_costs_agree_with_the_network_after_removal(name, random_masks):
    network, side = trained_alike(name), spec_of(name).image_size
    groups = find_groups(network, side)
    table = CostTable(network, groups, side)
    parameters = count_parameters(network)
    assert (table.dense, table.dense_parameters) == (count_macs(network, side), parameters)
    images, cut = torch.randn(1, 3, side, side), []
    for masks in drawn(groups, parameters, random_masks):
        small = remove_channels(network, masks, groups)
        assert differs(masks, network, groups, small, images) <= TOLERANCE[torch.float32]
        assert table.macs(masks.kept) == count_macs(small, side)
        assert table.parameters(masks.kept) == count_parameters(small)
        cut.append((masks, small))
    network = network.double()
    while cut:
        masks, small = cut.pop()
        small, images = small.double(), images.double()
        assert differs(masks, network, groups, small, images) <= TOLERANCE[torch.float64]
    gc.collect()


LOAD = """
import json, sys, torch
import pass_transfer as pt
logits = {}
for folder in sys.argv[1:]:
    model = pt.load_pruned(folder)
    size = model.spec.image_size
    with torch.no_grad():
        logits[folder] = model(torch.full((1, 3, size, size), 0.4))[0].tolist()
print(json.dumps(logits))
"""
SAVED = FAMILIES + (OF_TIMM if find_spec("timm") else [])


def pruned(name, random_masks):
    """A network with about a third of its units, as adapt hands it over."""
    spec = spec_of(name)
    network = trained_alike(name)
    groups = find_groups(network, spec.image_size)
    masks = random_masks(groups, 0, 0.3)
    kept = {n: mask.nonzero().flatten().tolist() for n, mask in masks.items()}
    small = Network(remove_channels(network, masks, groups), spec.mean, spec.std)
    return PrunedModel(small, spec, [str(n) for n in range(CLASSES)], kept).eval()


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory, random_masks):
    """By name, a small network and the logits of its copy: saved, and loaded elsewhere.

    One fresh process loads them all.
    """
    models, root = {}, tmp_path_factory.mktemp("saved")
    for name in SAVED:
        models[name] = pruned(name, random_masks)
        models[name].save(root / name)
    folders = [str(root / name) for name in models]
    fresh = subprocess.run([sys.executable, "-c", LOAD, *folders], capture_output=True, text=True)
    assert fresh.returncode == 0, fresh.stderr
    logits = json.loads(fresh.stdout)
    return {name: (model, logits[str(root / name)]) for name, model in models.items()}


@pytest.mark.parametrize("name", SAVED)
def test_a_fresh_process_computes_the_same_and_so_does_onnx(name, reloaded, tmp_path):
    model, logits = reloaded[name]
    side = model.spec.image_size
    with torch.no_grad():
        expected = model(torch.full((1, 3, side, side), 0.4))[0].tolist()
    assert logits == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert model.export(tmp_path / "small.onnx")["difference"] <= 1e-4
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
    entry, out = own_entry(architecture, trained_alike(architecture)), tmp_path / "run"
    code, _, err = call(
        "adapt", "--hypernet", entry, "--task", "digits", "--out", out, *QUICK, *how
    )
    assert code == 0, err
    result = json.loads((out / "result.json").read_text())
    model = pt.load_pruned(out)
    assert count_macs(model.network, SIDE) == result["macs"] < result["dense_macs"]
    assert count_parameters(model.network.backbone) == result["parameters"]
    gc.collect()


@pytest.mark.parametrize(
    "name, heads",
    [("vit_b_32", 12 * 12), ("swin_t", 138), ("swin_v2_t", 138), (OF_TIMM[6], 12 * 6)],
)
def test_heads_of_attention_are_units(name, heads):
    groups = find_groups(built(spec_of(name)).eval(), spec_of(name).image_size)
    assert sum(group.width for group in groups.values() if group.products) == heads
