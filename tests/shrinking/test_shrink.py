import copy
import dataclasses

import numpy as np
import pytest
import torch

from pass_transfer.networks import CostTable, count_macs, find_groups
from pass_transfer.networks.network import Network
from pass_transfer.prompts import Prompt
from pass_transfer.shrinking.classifier import fit_head
from pass_transfer.shrinking.recalibrate import recalibrate
from pass_transfer.shrinking.shrink import shrink
from pass_transfer.tasks import load_task
from pass_transfer.training import evaluate

MEAN, STD = (0.5,) * 3, (0.25,) * 3


@pytest.fixture(scope="module")
def task():
    """400 training digits at 32 pixels."""
    whole = load_task("digits", 32)
    return dataclasses.replace(whole, train=whole.train.subset(np.arange(400)))


def test_a_shrunk_network_has_the_masks_macs_and_a_head_that_works(
    resnet18, groups, random_masks, task, cpu
):
    before = copy.deepcopy(resnet18.state_dict())
    masks = random_masks(groups, 1, 0.6)
    network = shrink(resnet18, groups, masks, MEAN, STD, None, task, "linear", cpu)
    assert count_macs(network.backbone, 32) == CostTable(resnet18, groups, 32).macs(masks.kept)
    assert evaluate(network, task.held_out, cpu).top1 > 50
    assert not network.backbone.bn1.training and all(p.requires_grad for p in network.parameters())
    assert all(torch.equal(t, before[n]) for n, t in resnet18.state_dict().items()), (
        "the backbone is left as it is"
    )


def test_without_masks_the_dense_network_is_prepared_the_same_way(resnet18, groups, task, cpu):
    network = shrink(resnet18, groups, None, MEAN, STD, Prompt(size=32, pad=2), task, "linear", cpu)
    assert count_macs(network.backbone, 32) == count_macs(resnet18, 32)
    assert network.prompt is not None and network.backbone is not resnet18


def test_masks_that_cannot_be_removed_stay_on_the_network_and_its_copies(
    resnet18, random_masks, task, cpu
):
    groups = find_groups(resnet18, 32, "independent")
    masks, images = random_masks(groups, 1, 0.6), torch.rand(4, 3, 32, 32)
    network = shrink(
        resnet18, groups, masks, MEAN, STD, None, task, "linear", cpu, reconstruct=False
    ).eval()
    cut = copy.deepcopy(network)
    with torch.no_grad():  # weights that no mask keeps decide nothing
        for name, group in groups.items():
            cut.backbone.get_submodule(name).weight[~masks[name][group.writes[name]]] = 7.0
            for reader, units in group.reads.items():
                cut.backbone.get_submodule(reader).weight[:, ~masks[name][units]] = -7.0
        torch.testing.assert_close(cut(images), network(images))
        bare = Network(build_like(resnet18, network.backbone), MEAN, STD).eval()
        assert not torch.allclose(bare(images), network(images))
    assert count_macs(network.backbone, 32) == count_macs(resnet18, 32)
    assert all(
        network.backbone.get_submodule(reader)._forward_pre_hooks
        for group in groups.values()
        for reader in group.reads
    )


def build_like(dense, small):
    """A network without masks, with the weights of one under them."""
    found = copy.deepcopy(dense)
    found.load_state_dict(small.state_dict())
    return found


def test_reconstruction_of_masked_layers_changes_what_kept_inputs_weigh(
    resnet18, random_masks, task, cpu
):
    groups = find_groups(resnet18, 32, "independent")
    masks = random_masks(groups, 1, 0.6)
    plain, repaired = (
        shrink(
            resnet18, groups, masks, MEAN, STD, None, task, "linear", cpu, reconstruct=wanted
        ).backbone
        for wanted in (False, True)
    )
    for group in groups.values():
        for reader, units in group.reads.items():
            kept = masks[group.name][units]
            before, after = (
                plain.get_submodule(reader).weight,
                repaired.get_submodule(reader).weight,
            )
            if reader != "fc":  # which is made anew
                assert torch.equal(before[:, ~kept], after[:, ~kept]) and not torch.equal(
                    before[:, kept], after[:, kept]
                )


def test_a_frequency_mapping_finds_the_source_class_that_each_class_looks_like(
    resnet18, groups, random_masks, task, cpu
):
    source = Network(resnet18, MEAN, STD)
    recalibrate(source, task.train, cpu)
    renamed = dataclasses.replace(task.train, labels=(task.train.labels + 3) % 10)
    fit_head(source, renamed, 12, cpu)
    rows = (torch.arange(10) + 3) % 10
    dense = shrink(resnet18, groups, None, MEAN, STD, None, task, "frequency", cpu)
    assert torch.equal(dense.backbone.fc.weight, resnet18.fc.weight[rows]) and torch.equal(
        dense.backbone.fc.bias, resnet18.fc.bias[rows]
    )
    masks = random_masks(groups, 1, 0.6)
    small = shrink(
        resnet18, groups, masks, MEAN, STD, None, task, "frequency", cpu, reconstruct=False
    )
    assert torch.equal(
        small.backbone.fc.weight, resnet18.fc.weight[rows][:, masks["layer4.0.conv2"]]
    )
    mapped = shrink(
        resnet18, groups, masks, MEAN, STD, None, task, "iterative", cpu, reconstruct=False
    )
    kept = resnet18.fc.weight[:, masks["layer4.0.conv2"]]
    assert all(
        any(torch.equal(row, other) for other in kept) for row in mapped.backbone.fc.weight
    ), "mapped by its own predictions, to rows of the source's"
