"""Who judges a task's images while channels are measured."""

import copy

import pytest
import torch
from torch import nn

from pass_transfer.masking import batch_statistics
from pass_transfer.networks import BackboneSpec, set_classifier
from pass_transfer.networks.pretrained import PretrainedBackbone
from pass_transfer.scoring.judge import CROSS_VALIDATED, FIXED, choose_measuring, task_judge
from pass_transfer.scoring.method import Context
from pass_transfer.shrinking.classifier import SEARCH_IMAGES, class_features, with_task_head
from pass_transfer.shrinking.cross_validation import cross_validate
from pass_transfer.tasks import load_task
from pass_transfer.tasks.few_images import few_images
from pass_transfer.training import to_images


@pytest.fixture(scope="module")
def few():
    """Six images of each digit."""
    return few_images(load_task("digits", 32), 6)


@pytest.fixture
def dense(networks):
    module, groups = networks("resnet18")
    return PretrainedBackbone(module, BackboneSpec("resnet18", 10, 32), groups, "random")


def test_auto_goes_by_the_number_of_images_a_class(few):
    many = load_task("digits", 32)
    assert choose_measuring("auto", few) == CROSS_VALIDATED
    assert choose_measuring("auto", many) == FIXED
    assert choose_measuring("cross-validated", many) == CROSS_VALIDATED
    assert choose_measuring("fixed", few) == FIXED


def test_a_fixed_judge_is_the_classifier_made_from_all_images(dense, few, cpu):
    judge = task_judge(dense.network(), few, cpu, 0, FIXED)
    expected = with_task_head(dense.network(), few.train, 10, cpu, 0)
    assert torch.equal(judge.network.backbone.fc.weight, expected.backbone.fc.weight)
    assert judge.split is few.train and judge.network is judge.network_of_all


def test_every_image_is_judged_by_a_classifier_that_was_made_from_others(dense, few, cpu):
    judge = task_judge(dense.network(), few, cpu, 0, CROSS_VALIDATED)
    plain = copy.deepcopy(dense.network()).requires_grad_(False)
    with batch_statistics(plain.backbone):
        features, labels = class_features(plain, few.train, cpu, SEARCH_IMAGES, 0)
    found = cross_validate(features, labels, 10, 0)
    pixels, rows = judge.split.__getitems__(range(60))
    truth = few.train.__getitems__(range(60))[1]
    assert torch.equal(rows % 10, truth)
    images, expected = to_images(pixels, cpu.device), 0.0
    with torch.no_grad(), batch_statistics(judge.network.backbone):
        seen = judge.loss(judge.network(images), rows)
    for fold, head in enumerate(found.of_folds):
        set_classifier(plain.backbone, head)
        with torch.no_grad(), batch_statistics(plain.backbone):
            logits = plain(images)
        own = rows // 10 == fold
        expected += nn.functional.cross_entropy(logits[own], truth[own], reduction="sum")
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-3)
    assert torch.equal((rows // 10).bincount(minlength=5), torch.full((5,), 12))
    weight = judge.network_of_all.backbone.fc.weight
    torch.testing.assert_close(weight, found.whole.weight.detach())


def test_the_given_network_is_left_as_it_is(dense, few, cpu):
    network = dense.network()
    before = copy.deepcopy(network.state_dict())
    task_judge(network, few, cpu, 0, CROSS_VALIDATED)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("what", ["importance", "selection"])
def test_channels_are_measured_by_the_judge(dense, few, cpu, what):
    scores = {}
    for kind in (FIXED, CROSS_VALIDATED):
        context = Context(dense, dense.groups, few, cpu, measuring=kind)
        found = getattr(context, what)(60)
        assert all(bool(part.isfinite().all()) for part in found.values())
        scores[kind] = dense.groups.join(found)
    assert not torch.allclose(scores[FIXED], scores[CROSS_VALIDATED])


def test_with_many_images_nothing_changes(dense, cpu):
    many = load_task("digits", 32)
    auto = Context(dense, dense.groups, many, cpu).importance(64)
    fixed = Context(dense, dense.groups, many, cpu, measuring=FIXED).importance(64)
    assert all(torch.equal(auto[name], fixed[name]) for name in auto)
