import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pass_transfer.networks import CostTable, count_macs, count_parameters, set_classifier
from pass_transfer.networks.removal import remove_channels


def macs_by_hand(network: nn.Module, side: int) -> int:
    """Output elements times the weights that each of them is a sum over."""
    total = 0

    def count(layer: nn.Module, _, output: torch.Tensor) -> None:
        nonlocal total
        total += output.numel() * layer.weight[0].numel()

    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    handles = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, side, side))
    for handle in handles:
        handle.remove()
    return total


def test_resnet18_at_224_pixels_has_the_macs_and_parameters_that_everyone_quotes():
    from torchvision.models import resnet18

    network = resnet18()
    assert count_macs(network, 224) == 1_814_073_344  # 1.81 G (arXiv 1512.03385, table 1)
    assert count_parameters(network) == 11_689_512  # torchvision's documentation


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_macs_are_those_counted_by_hand(networks, architecture):
    network = networks(architecture)[0]
    assert count_macs(network, 32) == macs_by_hand(network, 32)


@pytest.mark.parametrize(
    "architecture, examples", [("resnet18", 6), ("resnet50", 3), ("resnext50_32x4d", 3)]
)
def test_the_table_foresees_the_macs_after_removal(networks, random_masks, architecture, examples):
    network, groups = networks(architecture)
    table = CostTable(network, groups, 32)
    assert table.dense == macs_by_hand(network, 32)
    for number in range(examples):
        masks = random_masks(groups, number)
        small = remove_channels(network, masks, groups)
        assert table.macs(masks.kept) == count_macs(small, 32) == macs_by_hand(small, 32)
        assert table.parameters(masks.kept) == count_parameters(small)
    assert table.dense_parameters == count_parameters(network)


def test_the_table_with_other_classes_counts_another_classifier(
    networks, resnet18, groups, random_masks
):
    table = CostTable(resnet18, groups, 32)
    set_classifier(resnet18, nn.Linear(512, 37))
    masks = random_masks(groups, 1)
    assert table.with_classes(37).dense == macs_by_hand(resnet18, 32)
    assert table.with_classes(37).macs(masks.kept) == macs_by_hand(
        remove_channels(resnet18, masks, groups), 32
    )
    assert table.dense == macs_by_hand(networks("resnet18")[0], 32)


@settings(max_examples=30)
@given(st.data())
def test_one_more_unit_never_costs_less(networks, data):
    network, groups = networks("resnet18")
    table = CostTable(network, groups, 32)
    kept = {n: data.draw(st.integers(1, g.width)) for n, g in groups.items()}
    name = data.draw(st.sampled_from([n for n in groups]))
    assert table.macs(kept | {name: min(kept[name] + 1, groups[name].width)}) >= table.macs(kept)


def test_counting_leaves_the_network_as_it_was(resnet18, groups):
    resnet18.train()
    resnet18.layer1.eval()
    modes = {n: m.training for n, m in resnet18.named_modules()}
    statistics = resnet18.bn1.running_mean.clone()
    count_macs(resnet18, 32)
    CostTable(resnet18, groups, 32)
    assert {n: m.training for n, m in resnet18.named_modules()} == modes
    assert torch.equal(resnet18.bn1.running_mean, statistics)
    assert not any(m._forward_hooks for m in resnet18.modules())
