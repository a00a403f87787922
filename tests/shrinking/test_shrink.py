"""From masks to the network that fine-tuning starts from."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from pass_transfer.networks import BackboneSpec, CostTable, count_macs, find_groups
from pass_transfer.networks.network import Network
from pass_transfer.networks.pretrained import PretrainedBackbone
from pass_transfer.prompts import Prompt
from pass_transfer.shrinking.classifier import fit_head
from pass_transfer.shrinking.recalibrate import recalibrate
from pass_transfer.shrinking.shrink import ShrinkConfig, shrink
from pass_transfer.tasks import load_task
from pass_transfer.training import evaluate

MEAN, STD = (0.5,) * 3, (0.25,) * 3
PLAIN = ShrinkConfig(reconstruct=False)


@pytest.fixture(scope="module")
def task():
    """400 training digits at 32 pixels."""
    whole = load_task("digits", 32)
    return dataclasses.replace(whole, train=whole.train.subset(np.arange(400)))


@pytest.fixture
def dense(resnet18, groups):
    """The ResNet-18 as what small networks are made from."""
    spec = BackboneSpec("resnet18", 10, 32, MEAN, STD)
    return PretrainedBackbone(resnet18, spec, groups, "random")


def test_a_shrunk_network_has_the_masks_macs_and_a_head_that_works(
    dense, groups, random_masks, task, cpu
):
    before = copy.deepcopy(dense.module.state_dict())
    masks = random_masks(groups, 1, 0.6)
    network = shrink(dense, groups, masks, None, task, ShrinkConfig(), cpu)
    assert count_macs(network.backbone, 32) == dense.table.macs(masks.kept)
    assert dense.table.macs(masks.kept) == CostTable(dense.module, groups, 32).macs(masks.kept)
    assert evaluate(network, task.held_out, cpu).top1 > 50
    assert not network.backbone.bn1.training and all(p.requires_grad for p in network.parameters())
    left = dense.module.state_dict()
    assert all(torch.equal(t, before[n]) for n, t in left.items()), "the backbone is as it was"


def test_without_masks_the_dense_network_is_prepared_the_same_way(dense, groups, task, cpu):
    prompt = Prompt(size=32, pad=2)
    network = shrink(dense, groups, None, prompt, task, ShrinkConfig(), cpu)
    assert count_macs(network.backbone, 32) == count_macs(dense.module, 32)
    assert network.prompt is not None and network.backbone is not dense.module
    assert evaluate(network, task.held_out, cpu).top1 > 50


def test_masks_that_cannot_be_removed_stay_on_the_network_and_its_copies(
    dense, random_masks, task, cpu
):
    groups = find_groups(dense.module, 32, "independent")
    masks, images = random_masks(groups, 1, 0.6), torch.rand(4, 3, 32, 32)
    network = shrink(dense, groups, masks, None, task, PLAIN, cpu).eval()
    cut = copy.deepcopy(network)
    with torch.no_grad():  # weights that no mask keeps decide nothing
        for name, group in groups.items():
            cut.backbone.get_submodule(name).weight[~masks[name][group.writes[name]]] = 7.0
            for reader, units in group.reads.items():
                cut.backbone.get_submodule(reader).weight[:, ~masks[name][units]] = -7.0
        torch.testing.assert_close(cut(images), network(images))
        bare = Network(dense.fresh(), MEAN, STD).eval()
        bare.backbone.load_state_dict(network.backbone.state_dict())
        assert not torch.allclose(bare(images), network(images))
    assert count_macs(network.backbone, 32) == count_macs(dense.module, 32)
    for group in groups.values():
        for reader in group.reads:
            assert network.backbone.get_submodule(reader)._forward_pre_hooks


def test_reconstruction_of_masked_layers_changes_what_kept_inputs_weigh(
    dense, random_masks, task, cpu
):
    groups = find_groups(dense.module, 32, "independent")
    masks = random_masks(groups, 1, 0.6)
    plain = shrink(dense, groups, masks, None, task, PLAIN, cpu).backbone
    repaired = shrink(dense, groups, masks, None, task, ShrinkConfig(), cpu).backbone
    for group in groups.values():
        for reader, units in group.reads.items():
            if reader == "fc":  # which is made anew
                continue
            kept = masks[group.name][units]
            before = plain.get_submodule(reader).weight
            after = repaired.get_submodule(reader).weight
            assert torch.equal(before[:, ~kept], after[:, ~kept])
            assert not torch.equal(before[:, kept], after[:, kept])


def test_a_mapping_finds_the_source_class_that_each_class_looks_like(
    dense, groups, random_masks, task, cpu
):
    source = Network(dense.module, MEAN, STD)
    recalibrate(source, task.train, cpu)
    renamed = dataclasses.replace(task.train, labels=(task.train.labels + 3) % 10)
    fit_head(source, renamed, 12, cpu)
    head, rows = dense.module.fc, (torch.arange(10) + 3) % 10

    def mapped(masks, mapping):
        config = ShrinkConfig(mapping, reconstruct=False)
        return shrink(dense, groups, masks, None, task, config, cpu).backbone.fc

    whole = mapped(None, "frequency")
    assert torch.equal(whole.weight, head.weight[rows])
    assert torch.equal(whole.bias, head.bias[rows])
    masks = random_masks(groups, 1, 0.6)
    kept = masks["layer4.0.conv2"]
    assert torch.equal(mapped(masks, "frequency").weight, head.weight[rows][:, kept])
    sources = head.weight[:, kept].tolist()
    own = mapped(masks, "iterative").weight.tolist()
    assert all(row in sources for row in own), "by its own predictions, to rows of the source's"
