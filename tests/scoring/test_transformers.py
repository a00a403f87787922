"""A search over transformers: prompts whose masks are better than random ones."""

import pytest
import torch
from torch import nn
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

from pass_transfer.budgets import Budget
from pass_transfer.masking import batch_statistics, masked
from pass_transfer.masking.agreement import check_agreement
from pass_transfer.networks import (
    BackboneSpec,
    build_backbone,
    count_parameters,
    find_groups,
    register_network,
)
from pass_transfer.networks.pretrained import PretrainedBackbone
from pass_transfer.scoring.hypernet import Hypernet, HypernetConfig
from pass_transfer.scoring.pretrained import cut_network, prompt_scores
from pass_transfer.scoring.prior import make_prior
from pass_transfer.scoring.random import random_scores
from pass_transfer.scoring.samples import Samples, task_importance, task_selection
from pass_transfer.scoring.search import SearchConfig, search
from pass_transfer.shrinking.classifier import with_task_head
from pass_transfer.training import evaluate
from pass_transfer.training.batches import to_images
from pass_transfer.zoo.entry import EntryNotes, load_hypernet, save_entry, verify_entry

SIDE, CLASSES, SEEDS = 16, 10, (0, 1, 2)
BUILD = {
    "vit": lambda: VisionTransformer(SIDE, 4, 2, 4, 32, 64, num_classes=CLASSES),
    "swin": lambda: SwinTransformer(
        [2, 2], 16, [2, 2], [2, 4], [2, 2], stochastic_depth_prob=0.0, num_classes=CLASSES
    ),
}


def known(name):
    """The name of a network that is registered, so that an entry of it can be loaded."""
    register_network(f"small_{name}", lambda classes: BUILD[name](), image_size=SIDE)
    return f"small_{name}"


def trained(name, task, seed):
    """A network that has learned the digits, in a few hundred steps."""
    torch.manual_seed(seed)
    spec = BackboneSpec(known(name), CLASSES, SIDE)
    network = build_backbone(spec).train()
    adam = torch.optim.AdamW(network.parameters(), 3e-3)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    for _ in range(150):
        chosen = torch.randint(len(task.train), (64,)).tolist()
        pixels, labels = task.train.__getitems__(chosen)
        loss = nn.functional.cross_entropy(
            network((to_images(pixels, torch.device("cpu")) - mean) / std), labels
        )
        adam.zero_grad()
        loss.backward()
        adam.step()
    return network.eval().requires_grad_(False), spec


@pytest.fixture(scope="module", params=BUILD)
def learned(request, digits):
    """For three seeds, a network with its groups."""
    found = []
    for seed in SEEDS:
        module, spec = trained(request.param, digits, seed)
        found.append(PretrainedBackbone(module, spec, find_groups(module, SIDE), request.param))
    return found


def test_units_are_heads_and_hidden_units(learned):
    dense = learned[0]
    check_agreement(dense.module, dense.groups, SIDE)
    heads = [group for group in dense.groups.values() if group.products]
    hidden = [group for group in dense.groups.values() if not group.products]
    blocks = 2 if dense.name == "vit" else 4
    assert len(heads) == len(hidden) == blocks
    assert {group.width for group in heads} <= {2, 4}
    assert all(len(next(iter(group.writes.values()))) > 3 * group.width for group in heads)


def test_a_masks_gradient_is_the_true_one(learned, random_masks):
    dense = learned[0]
    module = dense.module.double()
    masks = {n: m.double() for n, m in random_masks(dense.groups, 1, 0.6).items()}
    images = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)

    def loss(given):
        with batch_statistics(module), masked(module, dense.groups, given):
            return module(images).square().sum()

    leaves = {name: mask.clone().requires_grad_() for name, mask in masks.items()}
    loss(leaves).backward()
    for name, leaf in leaves.items():
        for unit in (masks[name].argmax(), masks[name].argmin()):
            nudge = torch.zeros_like(masks[name]).index_fill(0, unit, 1e-6)
            with torch.no_grad():
                above, below = (loss(masks | {name: masks[name] + s * nudge}) for s in (1, -1))
            numeric = (above - below) / 2e-6
            torch.testing.assert_close(leaf.grad[unit], numeric, rtol=1e-4, atol=1e-6)
    module.float()


def test_a_search_ends_with_masks_that_are_better_than_random_ones(learned, digits, cpu, tmp_path):
    ahead = []
    for seed, dense in zip(SEEDS, learned):
        shape = HypernetConfig(hidden=16, encoder=(8, 16))
        own = with_task_head(dense.network(), digits.train, CLASSES, cpu, seed)
        importance = task_importance(own, dense.groups, Samples(digits.train, cpu, 256, seed))
        prior = make_prior("taylor+l1", dense.module, dense.groups, lambda i=importance: i)
        torch.manual_seed(seed)
        net = Hypernet(shape, dense.module, dense.groups, prior)
        config = SearchConfig(steps=40, tasks=4, batch_size=64, low=0.4, high=0.7, seed=seed)
        prompt = search(net, own, digits, config, cpu)

        def accuracy(scores, dense=dense):
            target = cut_network(dense, None, None, "cpu")
            masks = Budget(density=0.6).cut(scores, target)
            return evaluate(dense.network(masks), digits.test, cpu).top1

        found = accuracy(prompt_scores(net.eval(), prompt))
        random = [accuracy(random_scores(dense.groups, draw)) for draw in range(6)]
        ahead.append(found - sum(random) / len(random))
    assert all(points > 0 for points in ahead), ahead
    source = {"task": "digits", "class_names": [str(n) for n in range(CLASSES)]}
    notes, state = EntryNotes(source, {}, {}, "# for tests\n"), dense.module.state_dict()
    save_entry(tmp_path / "entry", net, state, dense.spec, prompt, notes)
    verify_entry(tmp_path / "entry")
    loaded = load_hypernet(tmp_path / "entry")
    small = loaded.generate_masks(loaded.prompt(), macs=0.6).apply(loaded.backbone())
    assert count_parameters(small) < count_parameters(dense.module)


def test_forward_selection_takes_heads_as_wholes(learned, digits, cpu):
    dense = learned[0]
    own = with_task_head(dense.network(), digits.train, CLASSES, cpu, 0)
    scores = task_selection(own, dense.groups, Samples(digits.train, cpu, 256, 0))
    for name, group in dense.groups.items():
        assert sorted(scores[name].tolist()) == list(range(1, group.width + 1))
