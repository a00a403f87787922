"""Criteria by feature maps alone, against their definitions on networks that are small."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pass_transfer.masking import batch_statistics
from pass_transfer.networks import BackboneSpec, find_groups
from pass_transfer.networks.pretrained import PretrainedBackbone
from pass_transfer.scoring.activations import (
    channel_independence,
    lost_norms,
    unit_variances,
)
from pass_transfer.scoring.method import Context
from pass_transfer.scoring.registry import choose_method


def small_network():
    """Two convolutions and a classifier; the first's channels are read behind a ReLU."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 5, 3, padding=1)
    network = nn.Sequential(
        first, nn.ReLU(), second, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)
    )
    return network.requires_grad_(False), find_groups(network, 8)


def batches_of(count=3, side=8):
    return [(torch.rand(4, 3, side, side), torch.zeros(4, dtype=torch.int64)) for _ in range(count)]


def nuclear(matrix):
    return torch.linalg.svdvals(matrix.double()).sum()


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 12), st.integers(0, 2**31))
def test_what_the_nuclear_norm_loses_is_that_of_the_matrix_without_a_units_rows(
    units, each, places, seed
):
    draw = torch.Generator().manual_seed(seed)
    maps = torch.randn(units, each, places, generator=draw, dtype=torch.float64)
    found, whole = lost_norms(maps), nuclear(maps.flatten(0, 1))
    for unit in range(units):
        masked = maps.clone()
        masked[unit] = 0
        expected = whole - nuclear(masked.flatten(0, 1))
        assert found[unit].item() == pytest.approx(expected.item(), abs=1e-5)


def test_independence_is_averaged_over_images_where_the_maps_are_read():
    network, groups = small_network()
    samples = batches_of()
    found = channel_independence(network, groups, samples, network)
    images = torch.cat([images for images, _ in samples])
    maps = torch.relu(network[0](images)).flatten(2)
    lost = torch.zeros(6, dtype=torch.float64)
    for image in maps:
        for channel in range(6):
            others = [row for number, row in enumerate(image) if number != channel]
            lost[channel] += nuclear(image) - nuclear(torch.stack(others))
    name = list(groups)[0]
    torch.testing.assert_close(found[name], lost / lost.mean(), rtol=1e-4, atol=1e-4)


def test_a_twin_is_less_independent_than_a_channel_of_its_own():
    network, groups = small_network()
    network[0].weight[4], network[0].bias[4] = network[0].weight[1], network[0].bias[1]
    found = channel_independence(network, groups, batches_of(), network)[list(groups)[0]]
    torch.testing.assert_close(found[1], found[4])
    assert found[[1, 4]].max() < found.median() or found.argmin() in (1, 4)


def test_variance_is_that_of_all_places_of_all_images():
    network, groups = small_network()
    samples = batches_of()
    found = unit_variances(network, groups, samples, network)
    images = torch.cat([images for images, _ in samples])
    first = torch.relu(network[0](images)).double()
    expected = first.transpose(0, 1).flatten(1).var(1, unbiased=False)
    torch.testing.assert_close(found[list(groups)[0]], expected, rtol=1e-5, atol=1e-8)
    pooled = torch.relu(network[2](first.float())).mean((2, 3)).double()
    torch.testing.assert_close(
        found[list(groups)[1]], pooled.var(0, unbiased=False), rtol=1e-4, atol=1e-8
    )


@pytest.mark.parametrize("architecture", ["resnet18", "vgg16", "vit_b_16"])
def test_every_unit_of_every_network_has_a_variance(networks, architecture):
    network, groups = networks(architecture)
    samples = [(torch.rand(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64))]
    found = unit_variances(network, groups, samples, network)
    assert {name: len(part) for name, part in found.items()} == {
        name: group.width for name, group in groups.items()
    }
    assert all(bool(part.isfinite().all()) and bool((part >= 0).all()) for part in found.values())
    assert not any(module._forward_pre_hooks for module in network.modules())


@pytest.fixture
def context(networks, digits, cpu):
    module, groups = networks("resnet18")
    dense = PretrainedBackbone(module, BackboneSpec("resnet18", 10, 32), groups, "random")
    return Context(dense, groups, digits, cpu)


@pytest.mark.parametrize("name", ["chip", "variance"])
def test_both_are_methods_that_need_no_labels(context, name, monkeypatch):
    chosen = choose_method(name, {"images": 8})
    monkeypatch.setattr(Context, "judge", property(lambda _: pytest.fail("labels were asked for")))
    scores = chosen.score(replaced(context, chosen)).scores
    assert {n: len(part) for n, part in scores.items()} == {
        n: group.width for n, group in context.groups.items()
    }


def replaced(context, chosen):
    return Context(
        context.dense, context.groups, context.task, context.runtime, settings=chosen.settings
    )


def test_maps_are_seen_with_the_statistics_of_their_batch(networks):
    network, groups = networks("resnet18")
    images = torch.rand(4, 3, 32, 32)
    samples = [(images, torch.zeros(4, dtype=torch.int64))]
    found = unit_variances(network, groups, samples, network)
    seen = []
    handle = network.layer1[0].conv2.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    with torch.no_grad(), batch_statistics(network):
        network(images)
    handle.remove()
    expected = seen[0].double().transpose(0, 1).flatten(1).var(1, unbiased=False)
    torch.testing.assert_close(found["layer1.0.conv1"], expected, rtol=1e-4, atol=1e-8)
