"""Torch-Pruning's own pruner, run directly, removes what our wrapper of it ranks last."""

import copy

import pytest
import torch

from pass_transfer.networks import classifier_name
from pass_transfer.scoring.magnitude import group_l1, group_l2
from pass_transfer.scoring.methods.sparse_training import RECIPES, make_pruner
from pass_transfer.scoring.torch_pruning_importance import by_importance

SIDE = 32


def removed_by_torch_pruning(backbone, groups, name, share):
    """Units of each group that Torch-Pruning takes out."""
    names = {module: name for name, module in backbone.named_modules()}
    found = {name: set() for name in groups}
    for parts in make_pruner(name, backbone, SIDE, pruning_ratio=share).step(interactive=True):
        dependency, units = parts[0]
        layer = names[dependency.target.module]
        found[next(g.name for g in groups.values() if layer in g.writes)] |= set(units)
    return found


@pytest.mark.parametrize("share", [0.2, 0.5])
@pytest.mark.parametrize("name", list(RECIPES))
def test_the_same_channels_go(networks, name, share):
    backbone, groups = networks("resnet18")
    backbone = copy.deepcopy(backbone).requires_grad_(True)
    pruner = make_pruner(name, backbone, SIDE)
    draw = torch.Generator().manual_seed(1)
    for _ in range(3):  # as sparse training leaves it
        backbone(torch.rand(2, 3, SIDE, SIDE, generator=draw)).square().sum().backward()
        pruner.regularize(backbone)
        with torch.no_grad():
            for parameter in backbone.parameters():
                parameter -= 0.01 * parameter.grad / parameter.grad.abs().max()
                parameter.grad = None
    flat = groups.join(by_importance(RECIPES[name].importance(), backbone, groups, SIDE))
    removed = removed_by_torch_pruning(copy.deepcopy(backbone), groups, name, share)
    lowest = flat.argsort(stable=True)[: sum(map(len, removed.values()))].tolist()
    gone = []
    for offset, group in zip(groups.offsets.tolist(), groups):
        gone += [offset + unit for unit in removed[group]]
    assert sorted(gone) == sorted(lowest)
    assert len(lowest) >= 0.9 * share * groups.total


@pytest.mark.parametrize("name", list(RECIPES))
def test_the_regulariser_draws_weights_towards_zero(networks, name):
    backbone = copy.deepcopy(networks("resnet18")[0]).requires_grad_(True)
    for parameter in backbone.parameters():
        parameter.grad = torch.zeros_like(parameter)
    make_pruner(name, backbone, SIDE).regularize(backbone)
    moved = {n: p for n, p in backbone.named_parameters() if p.grad.abs().sum() > 0}
    assert moved and not any(n.startswith(classifier_name(backbone) + ".bias") for n in moved)
    for parameter in moved.values():
        assert (parameter.grad * parameter).sum() > 0


def test_magnitudes_are_the_mean_norms_of_a_group(networks):
    backbone, groups = networks("resnet18")
    block = backbone.layer1[0]
    for of, norm in ((group_l1, torch.abs), (group_l2, torch.square)):
        written = norm(block.conv1.weight).sum((1, 2, 3)) + norm(block.bn1.weight)
        read = norm(block.conv2.weight).sum((0, 2, 3))
        expected = ((written + read) / 3).detach()
        found = of(backbone, groups)["layer1.0.conv1"]
        torch.testing.assert_close(found, expected / expected.mean())
