import copy

import pytest
import torch
from torch import nn

from pass_transfer.masking import batch_statistics, masked
from pass_transfer.networks import find_groups


def loss_of(network, groups, masks, images, labels):
    with batch_statistics(network), masked(network, groups, masks):
        return nn.functional.cross_entropy(network(images), labels)


@pytest.mark.parametrize("coupling", ["grouped", "independent"])
def test_the_gradient_of_a_mask_is_the_true_one_for_kept_and_dropped_channels(
    resnet18, random_masks, coupling
):
    network = resnet18.double().requires_grad_(False)
    groups = find_groups(network, 32, coupling)
    masks = {n: m.double() for n, m in random_masks(groups, 1, 0.6).items()}
    images, labels = torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.tensor([1, 5, 5, 9])
    leaves = {n: m.clone().requires_grad_() for n, m in masks.items()}
    loss_of(network, groups, leaves, images, labels).backward()
    step = 1e-6
    for name in ("conv1", "layer1.0.conv1", "layer3.0.conv2", "layer4.1.conv1"):
        for channel in (masks[name].argmax(), masks[name].argmin()):
            nudge = torch.zeros_like(masks[name]).index_fill(0, channel, step)
            with torch.no_grad():
                above = loss_of(
                    network, groups, masks | {name: masks[name] + nudge}, images, labels
                )
                below = loss_of(
                    network, groups, masks | {name: masks[name] - nudge}, images, labels
                )
            numeric = (above - below) / (2 * step)
            torch.testing.assert_close(leaves[name].grad[channel], numeric, rtol=1e-5, atol=1e-9)
    for name, leaf in leaves.items():
        if name != "layer4.1.conv2":
            assert leaf.grad[masks[name] == 0].abs().sum() > 0, "dropped channels learn too"


def test_a_grouped_convolution_gives_a_mask_its_true_gradient(networks, random_masks):
    network, groups = networks("resnext50_32x4d")
    network = copy.deepcopy(network).double().requires_grad_(False)
    masks = {n: m.double() for n, m in random_masks(groups, 1, 0.7).items()}
    images, labels = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.tensor([1, 5])
    leaves = {n: m.clone().requires_grad_() for n, m in masks.items()}
    loss_of(network, groups, leaves, images, labels).backward()
    nudge = torch.zeros(32, dtype=torch.float64).index_fill(
        0, masks["layer2.1.conv1"].argmin(), 1e-6
    )
    with torch.no_grad():
        above, below = (
            loss_of(
                network,
                groups,
                masks | {"layer2.1.conv1": masks["layer2.1.conv1"] + s * nudge},
                images,
                labels,
            )
            for s in (1, -1)
        )
    torch.testing.assert_close(
        (leaves["layer2.1.conv1"].grad * nudge).sum(), (above - below) / 2, rtol=1e-4, atol=1e-14
    )


def test_a_mask_of_ones_changes_nothing(resnet18, groups):
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = resnet18(images)
        with masked(resnet18, groups, {n: torch.ones(g.width) for n, g in groups.items()}):
            assert torch.equal(resnet18(images), expected)


def test_bool_and_floating_masks_do_the_same(resnet18, groups, random_masks):
    images, masks = torch.randn(2, 3, 32, 32), random_masks(groups, 1)
    with torch.no_grad():
        with masked(resnet18, groups, masks):
            expected = resnet18(images)
        with masked(resnet18, groups, {n: m.float() for n, m in masks.items()}):
            assert torch.equal(resnet18(images), expected)


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_stays_behind_when_the_context_ends(resnet18, groups, random_masks, fails):
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = resnet18(images)
        try:
            with masked(resnet18, groups, random_masks(groups, 1)):
                assert not torch.equal(resnet18(images), expected)
                if fails:
                    raise KeyError
        except KeyError:
            pass
        assert torch.equal(resnet18(images), expected)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in resnet18.modules())


def test_batch_statistics_are_those_of_the_batch(little):
    images = torch.randn(8, 3, 16, 16)
    reference = copy.deepcopy(little).train()
    with torch.no_grad(), batch_statistics(little):
        actual = little(images)
    torch.testing.assert_close(actual, reference(images))


@pytest.mark.parametrize("training", [False, True])
def test_batch_statistics_leave_stored_ones_and_modes_untouched(resnet18, training):
    resnet18.train(training)
    resnet18.layer2.train(not training)
    before = copy.deepcopy(resnet18.state_dict())
    modes = {n: m.training for n, m in resnet18.named_modules()}
    with batch_statistics(resnet18):
        resnet18(torch.randn(4, 3, 32, 32))
    assert all(torch.equal(t, before[n]) for n, t in resnet18.state_dict().items())
    assert resnet18.state_dict().keys() == before.keys()
    assert {n: m.training for n, m in resnet18.named_modules()} == modes
    assert all(m.track_running_stats for m in resnet18.modules() if isinstance(m, nn.BatchNorm2d))
