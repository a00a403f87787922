import copy

import pytest
import torch
import torch_pruning
from torch import nn

from pass_transfer.errors import MaskError
from pass_transfer.masking import masked
from pass_transfer.networks import (
    BackboneSpec,
    CostTable,
    build_backbone,
    count_macs,
    count_parameters,
    cut_groups,
    find_groups,
)
from pass_transfer.networks.dependency_graph import dependency_graph
from pass_transfer.networks.removal import remove_channels, resize_like

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}  # of the largest logit


def assert_masked_equals_removed(network: nn.Module, groups, masks) -> None:
    dtype = next(network.parameters()).dtype
    images = torch.randn(2, 3, 32, 32, dtype=dtype)
    small = remove_channels(network, masks, groups).eval()
    with torch.no_grad():
        with masked(network, groups, masks):
            expected = network(images)
        actual = small(images)
    assert (actual - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_masked_equals_removed_for_fifty_mask_sets_of_resnet18(
    resnet18, groups, random_masks, dtype
):
    network = resnet18.to(dtype)
    for number in range(50):
        assert_masked_equals_removed(network, groups, random_masks(groups, number))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("architecture", ["resnet50", "resnext50_32x4d"])
def test_masked_equals_removed_for_bottleneck_networks(networks, random_masks, architecture, dtype):
    network, groups = networks(architecture)
    network = copy.deepcopy(network).to(dtype)
    for number in range(4):
        assert_masked_equals_removed(network, groups, random_masks(groups, number))


@pytest.mark.parametrize(
    "architecture",
    [
        "resnet34",
        "resnet101",
        "resnet152",
        "resnext101_32x8d",
        "resnext101_64x4d",
        "wide_resnet50_2",
        "wide_resnet101_2",
    ],
)
def test_masked_equals_removed_for_every_other_backbone(random_masks, architecture):
    network = build_backbone(BackboneSpec(architecture, 10, 32)).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.normal_(module.bias, 0, 0.3)
    groups = find_groups(network, 32)
    assert_masked_equals_removed(network, groups, random_masks(groups, 0, 0.5))


@pytest.mark.parametrize("keep", ["one unit", "all"])
def test_the_extremes_can_be_removed(resnet18, groups, keep):
    masks = {
        n: torch.arange(g.width) < (1 if keep == "one unit" else g.width) for n, g in groups.items()
    }
    small = remove_channels(resnet18, masks, groups)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad(), masked(resnet18, groups, masks):
        expected = resnet18(images)
    torch.testing.assert_close(small(images), expected, rtol=1e-4, atol=1e-5)


def test_removal_is_what_torch_pruning_does(resnet18, groups, random_masks):
    masks = random_masks(groups, 7)
    reference = copy.deepcopy(resnet18)
    for name, mask in masks.items():
        graph = dependency_graph(reference, 32)
        root = reference.get_submodule(name)
        graph.get_pruning_group(
            root, torch_pruning.prune_conv_out_channels, (~mask).nonzero().flatten().tolist()
        ).prune()
    actual, expected = remove_channels(resnet18, masks, groups).state_dict(), reference.state_dict()
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[n], t) for n, t in expected.items())


@pytest.mark.parametrize("architecture", ["resnet18", "resnext50_32x4d"])
def test_layers_of_the_small_network_report_their_sizes(networks, random_masks, architecture):
    network, groups = networks(architecture)
    for layer in remove_channels(network, random_masks(groups, 2), groups).modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.shape[:2] == (layer.out_channels, layer.in_channels // layer.groups)
            assert layer.in_channels % layer.groups == 0 and layer.out_channels % layer.groups == 0
        elif isinstance(layer, nn.Linear):
            assert layer.weight.shape == (layer.out_features, layer.in_features)
        elif isinstance(layer, nn.BatchNorm2d):
            assert {t.shape[0] for t in layer.state_dict().values() if t.ndim} == {
                layer.num_features
            }


def test_removal_leaves_its_argument_and_the_masks_alone(resnet18, groups, random_masks):
    resnet18.train()
    resnet18.layer2.eval()
    masks = random_masks(groups, 3)
    before, same = copy.deepcopy(resnet18.state_dict()), random_masks(groups, 3)
    modes = {n: m.training for n, m in resnet18.named_modules()}
    small = remove_channels(resnet18, masks)
    with torch.no_grad():
        for tensor in small.state_dict().values():
            tensor.zero_()
    assert masks == same
    assert all(torch.equal(t, before[n]) for n, t in resnet18.state_dict().items())
    assert (
        {n: m.training for n, m in resnet18.named_modules()}
        == modes
        == {n: m.training for n, m in small.named_modules()}
    )


def test_the_small_network_trains_where_the_dense_one_did(resnet18, groups, random_masks):
    resnet18.conv1.requires_grad_(False)
    small = remove_channels(resnet18, random_masks(groups, 3), groups)
    assert {n for n, p in small.named_parameters() if not p.requires_grad} == {"conv1.weight"}
    small.train()(torch.randn(4, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None for n, p in small.named_parameters() if n != "conv1.weight")


def test_masks_apply_to_a_network(resnet18, groups, random_masks):
    masks = random_masks(groups, 4)
    actual, expected = (
        masks.apply(resnet18).state_dict(),
        remove_channels(resnet18, masks, groups).state_dict(),
    )
    assert all(torch.equal(actual[n], t) for n, t in expected.items())


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_a_fresh_network_is_rebuilt_from_the_small_ones_tensors(
    networks, random_masks, architecture
):
    network, groups = networks(architecture)
    small = remove_channels(network, random_masks(groups, 6), groups)
    rebuilt = build_backbone(BackboneSpec(architecture, 10, 32)).eval()
    resize_like(rebuilt, {n: t.shape for n, t in small.state_dict().items()})
    rebuilt.load_state_dict(small.state_dict(), strict=True)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(rebuilt(images), small(images))


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_shapes_of_another_architecture_are_refused(resnet18, change):
    shapes = {n: t.shape for n, t in resnet18.state_dict().items()}
    if change == "missing":
        del shapes["conv1.weight"]
    else:
        shapes["conv9.weight"] = torch.Size([1])
    with pytest.raises(MaskError, match=f"conv.*{change}"):
        resize_like(resnet18, shapes)


def test_masks_of_another_network_are_refused(resnet18, networks, groups, random_masks):
    wide = random_masks(groups, 0)
    wrong = [
        random_masks(networks("resnet50")[1], 0),
        {n: wide[n] for n in wide if n != "conv1"},
        {n: wide[n] for n in wide} | {"conv1": torch.ones(65, dtype=torch.bool)},
    ]
    for masks in wrong:
        with pytest.raises(MaskError, match="another network"):
            remove_channels(resnet18, masks)


def test_masks_with_independent_coupling_cannot_be_removed(resnet18):
    groups = find_groups(resnet18, 32, "independent")
    masks = {n: torch.ones(g.width, dtype=torch.bool) for n, g in groups.items()}
    with pytest.raises(MaskError, match="independent"):
        remove_channels(resnet18, masks, groups)


AGAIN = ("resnet18", "vgg11_bn", "mobilenet_v2", "mobilenet_v3_small", "resnext50_32x4d")


@pytest.mark.parametrize("architecture", AGAIN)
@pytest.mark.parametrize("density", [0.04, 0.4])
def test_cut_twice_is_cut_once_by_what_is_left_of_both(
    networks, random_masks, architecture, density
):
    network, groups = networks(architecture)
    first = random_masks(groups, 1, density)
    kept = {name: mask.nonzero().flatten() for name, mask in first.items()}
    small = remove_channels(network, first, groups)
    left = cut_groups(groups, {name: units.tolist() for name, units in kept.items()})
    assert {name: group.width for name, group in left.items()} == first.kept
    second = random_masks(left, 2, 0.5)
    both = {name: torch.zeros_like(mask) for name, mask in first.items()}
    for name, units in kept.items():
        both[name][units[second[name]]] = True
    twice = remove_channels(small, second, left)
    once = remove_channels(network, both, groups)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(twice(images), once(images))
    table = CostTable(small, left, 32)
    assert table.dense == count_macs(small, 32)
    assert table.macs(second.kept) == count_macs(twice, 32)
    assert table.parameters(second.kept) == count_parameters(twice)


@pytest.mark.parametrize("architecture", ["resnet18", "vgg11_bn", "mobilenet_v2"])
def test_the_groups_of_a_cut_network_are_those_that_are_found_in_it(
    networks, random_masks, architecture
):
    network, groups = networks(architecture)
    masks = random_masks(groups, 3, 0.5)
    kept = {name: mask.nonzero().flatten().tolist() for name, mask in masks.items()}
    left = cut_groups(groups, kept)
    found = find_groups(remove_channels(network, masks, groups), 32)
    assert list(left) == list(found) and left.steps == found.steps
    for name, group in found.items():
        for side in ("writes", "reads"):
            own, expected = getattr(left[name], side), getattr(group, side)
            assert {n: u.tolist() for n, u in own.items()} == {
                n: u.tolist() for n, u in expected.items()
            }
