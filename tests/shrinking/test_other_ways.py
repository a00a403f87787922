"""Other ways to give cut channels' work to the kept ones: the mean, GRAIL, folding."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pass_transfer.networks import BackboneSpec, find_groups
from pass_transfer.networks.pretrained import PretrainedBackbone
from pass_transfer.networks.removal import remove_channels
from pass_transfer.shrinking.fits import GRAM_RIDGE, FitOfPlaces, GramRidge, MeanOnly
from pass_transfer.shrinking.folding import folded, nearest_kept
from pass_transfer.shrinking.reconstruct import WAYS
from pass_transfer.shrinking.shrink import ShrinkConfig, shrink
from pass_transfer.tasks import load_task
from pass_transfer.tasks.few_images import few_images
from pass_transfer.training import evaluate


def fitted(kind, weight, channels, rows):
    fit = kind(weight, channels)
    for part in rows.split(64):
        fit.add(part)
    return fit.solve()


def some(seed, kept, size):
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 8, *size, generator=draw, dtype=torch.float64)
    rows = torch.randn(200, weight[0].numel(), generator=draw, dtype=torch.float64) + 1
    channels = torch.zeros(8, dtype=torch.bool)
    channels[torch.randperm(8, generator=draw)[:kept]] = True
    return weight, channels, rows


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 7), st.sampled_from([(), (3, 3), (1, 2)]))
def test_grail_is_the_weight_times_the_regression_of_all_channels_on_the_kept_ones(
    seed, kept, size
):
    weight, channels, rows = some(seed, kept, size)
    added, shift = fitted(GramRidge, weight, channels, rows)
    flat, keep = weight.reshape(3, 8, -1).numpy(), channels.numpy()
    pixels = rows.numpy().reshape(200, 8, -1).transpose(0, 2, 1).reshape(-1, 8)
    gram = pixels.T @ pixels
    among = gram[np.ix_(keep, keep)]
    ridge = GRAM_RIDGE * np.trace(among) / kept * np.eye(kept)
    mixing = gram[:, keep] @ np.linalg.inv(among + ridge)
    expected = np.einsum("ocp,ck->okp", flat, mixing).reshape(3, -1)
    before = flat[:, keep].reshape(3, -1)
    np.testing.assert_allclose(added.numpy() + before, expected, rtol=1e-6, atol=1e-9)
    assert not shift.any()


def test_behind_a_flattening_grail_mixes_channels_at_their_own_place():
    weight = torch.randn(3, 6 * 5, dtype=torch.float64)
    maps = torch.randn(300, 6, 5, dtype=torch.float64)
    maps[:, 4] = 2 * maps[:, 1]
    mask = torch.tensor([True, True, True, True, False, True])
    fit = FitOfPlaces(weight, mask, torch.arange(30).view(6, 5), GramRidge)
    fit.add(maps.flatten(1))
    added = fit.solve()[0].view(3, 5, 5)
    expected = torch.zeros(3, 5, 5, dtype=torch.float64)
    expected[:, 1] = 2 * weight.view(3, 6, 5)[:, 4]
    torch.testing.assert_close(added, expected, rtol=0.02, atol=0.02)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 7), st.sampled_from([(), (3, 3)]))
def test_the_bias_takes_over_the_mean_of_what_is_lost(seed, kept, size):
    weight, channels, rows = some(seed, kept, size)
    added, shift = fitted(MeanOnly, weight, channels, rows)
    lost = ~channels[:, None].expand(8, weight[0, 0].numel()).flatten()
    made = rows[:, lost] @ weight.flatten(1)[:, lost].T
    torch.testing.assert_close(shift, made.mean(0))
    assert not added.any() and added.shape == (3, int((~lost).sum()))


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)
    ).requires_grad_(False)


def test_folding_averages_what_makes_a_cluster_and_adds_up_what_reads_it():
    network = mlp()
    groups = find_groups(network, 8)
    (name,) = groups
    mask = torch.tensor([True, False, True, False, False])
    made = network[0].weight.flatten(1).numpy()
    gaps = np.linalg.norm(made[:, None] - made[None], axis=2)
    centre = [c if mask[c] else min((0, 2), key=lambda k, c=c: gaps[c, k]) for c in range(5)]
    assert nearest_kept(network, groups[name], mask).tolist() == centre
    small = remove_channels(folded(network, {name: mask}, groups), {name: mask}, groups)
    for place, kept in enumerate((0, 2)):
        members = [c for c in range(5) if centre[c] == kept]
        for own, whole in ((small[0].weight, network[0].weight), (small[0].bias, network[0].bias)):
            torch.testing.assert_close(own[place], whole[members].mean(0))
        torch.testing.assert_close(small[4].weight[:, place], network[4].weight[:, members].sum(1))
    torch.testing.assert_close(small[4].bias, network[4].bias)


@pytest.mark.parametrize("architecture", ["resnet18", "vgg16", "mobilenet_v3_large"])
def test_channels_that_are_repeated_are_folded_without_a_loss(networks, architecture):
    network, groups = networks(architecture)
    network = copy.deepcopy(network)
    twins = {name: group.width // 2 for name, group in groups.items()}
    with torch.no_grad():
        for name, group in groups.items():
            for layer, units in group.writes.items():
                repeat(network.get_submodule(layer), units, twins[name])
    masks = {name: torch.arange(g.width) != twins[name] for name, g in groups.items()}
    images = torch.randn(2, 3, 32, 32)
    small = remove_channels(folded(network, masks, groups), masks, groups)
    plain = remove_channels(network, masks, groups)
    with torch.no_grad():
        expected = network(images)
        apart = (small(images) - expected).norm() / expected.norm()
        lost = (plain(images) - expected).norm() / expected.norm()
    assert apart < 1e-4 < lost


def test_a_transformers_heads_and_tokens_are_folded_too(networks, random_masks):
    network, groups = networks("vit_b_16")
    masks = random_masks(groups, 0, 0.9)
    before = copy.deepcopy(network.state_dict())
    small = remove_channels(folded(network, masks, groups), masks, groups)
    plain = remove_channels(network, masks, groups)
    shapes = {name: value.shape for name, value in plain.state_dict().items()}
    assert {name: value.shape for name, value in small.state_dict().items()} == shapes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def repeat(layer, units, twin):
    """Make the outputs of a unit those of the first one."""
    first, second = ((units == unit).nonzero().flatten() for unit in (0, twin))
    for values in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)):
        if values.ndim:
            values[second] = values[first]


@pytest.mark.parametrize("way", [*WAYS, True])
def test_every_way_gives_a_network_that_is_ready(networks, random_masks, cpu, way):
    module, groups = networks("resnet18")
    dense = PretrainedBackbone(module, BackboneSpec("resnet18", 10, 32), groups, "random")
    task = few_images(load_task("digits", 32), 10)
    masks = random_masks(groups, 0, 0.5)
    config = ShrinkConfig(reconstruct=way)
    network = shrink(dense, groups, masks, None, task, config, cpu)
    assert evaluate(network, task.held_out, cpu).top1 >= 20
    plain = shrink(dense, groups, masks, None, task, ShrinkConfig(reconstruct=False), cpu)
    same = torch.equal(network.backbone.conv1.weight, plain.backbone.conv1.weight)
    assert same == (way != "fold")
    readers = network.backbone.layer1[0].conv2.weight, plain.backbone.layer1[0].conv2.weight
    assert torch.equal(*readers) == (way == "mean"), "there is no bias before BatchNorm"
