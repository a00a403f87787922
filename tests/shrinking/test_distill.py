"""Learning from a larger network: the loss by its formula, and what is learned.

The teacher stays untouched.
"""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from pass_transfer.networks.network import Network
from pass_transfer.random_streams import stream
from pass_transfer.shrinking.distill import (
    Teacher,
    decoupled_divergence,
    softened_divergence,
)
from pass_transfer.shrinking.finetune import FinetuneConfig, FinetuneStage, finetune
from pass_transfer.tasks import Split
from pass_transfer.training import evaluate

MEAN, STD = (0.5,) * 3, (0.25,) * 3


def softmax(logits):
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    return exponents / exponents.sum(1, keepdims=True)


@pytest.fixture
def network(little):
    return Network(little, MEAN, STD)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_divergence_is_that_of_the_softened_predictions(temperature):
    teacher, student = 3 * torch.randn(5, 7), 3 * torch.randn(5, 7)
    p, q = (softmax(logits.double().numpy() / temperature) for logits in (teacher, student))
    expected = temperature**2 * (p * np.log(p / q)).sum(1).mean()
    found = softened_divergence(teacher, student, temperature).item()
    assert found == pytest.approx(expected, rel=1e-5)
    shifted = softened_divergence(teacher, teacher + 1, temperature).item()
    assert shifted == pytest.approx(0, abs=1e-5), "logits that differ by a constant say the same"


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_both_parts_together_are_the_whole_divergence(temperature):
    """arXiv 2203.08679, equation 6: others count by how unlikely the teacher finds the label."""
    for seed in range(5):
        draw = torch.Generator().manual_seed(seed)
        teacher, student = (3 * torch.randn(1, 7, generator=draw) for _ in range(2))
        labels = torch.randint(7, (1,), generator=draw)
        unlikely = 1 - softmax(teacher.double().numpy() / temperature)[0, labels.item()]
        apart = decoupled_divergence(teacher, student, labels, temperature, unlikely).item()
        whole = softened_divergence(teacher, student, temperature).item()
        assert apart == pytest.approx(whole, rel=1e-4)


def test_taught_apart_the_others_count_more(digits, cpu, network):
    labels, others = torch.tensor([0, 1]), 8.0
    images = torch.rand(2, 3, 32, 32)
    teacher = Teacher.of(copy.deepcopy(network), 1.0, 2.0, cpu, others)
    student = torch.randn(2, digits.classes)
    found = teacher.loss(images, student, labels, torch.tensor(0.0), cpu).item()
    said = teacher.network(images)
    assert found == pytest.approx(
        decoupled_divergence(said, student, labels, 2.0, others).item(), rel=1e-5
    )


def test_at_a_high_temperature_the_gradient_is_the_difference_of_centred_logits():
    teacher = torch.randn(6, 10, dtype=torch.float64)
    student = torch.randn(6, 10, dtype=torch.float64, requires_grad=True)
    softened_divergence(teacher, student, 1000.0).backward()
    apart = student.detach() - teacher
    expected = (apart - apart.mean(1, keepdim=True)) / 10 / 6  # arXiv 1503.02531, equation 4
    assert torch.allclose(student.grad, expected, rtol=1e-2, atol=1e-4)


def stepped(network, digits, cpu, weight, labels):
    """The state of a copy of a network after one step with a teacher, which does not change."""
    torch.manual_seed(5)
    taught = Network(copy.deepcopy(network.backbone), MEAN, STD)
    torch.nn.init.normal_(taught.backbone.fc.weight)
    student, before = copy.deepcopy(network), copy.deepcopy(taught.state_dict())
    teacher = Teacher.of(taught, weight, 4.0, cpu)
    stage = FinetuneStage(student, digits, FinetuneConfig(lr=0.1), cpu, teacher=teacher)
    stage.start_epoch(0, 0)
    pixels, _ = digits.train.__getitems__(range(32))
    stage.step(pixels, labels, stream(0, "augmentation"), 0)
    assert not any(module.training for module in taught.modules())
    assert not any(p.requires_grad for p in taught.parameters())
    after = taught.state_dict()
    assert all(torch.equal(t, before[n]) for n, t in after.items()), (
        "the teacher learns nothing, nor do its statistics"
    )
    return student.state_dict()


def test_labels_and_teacher_have_the_shares_that_the_weight_says(network, digits, cpu):
    one, other = torch.zeros(32, dtype=torch.int64), torch.ones(32, dtype=torch.int64)

    def weights(share, labels):
        return stepped(network, digits, cpu, share, labels)["backbone.fc.weight"]

    by_labels, by_teacher = weights(0.0, one), weights(1.0, one)
    assert torch.equal(by_teacher, weights(1.0, other))
    assert not torch.allclose(by_labels, weights(0.0, other))
    middle = (by_labels + by_teacher) / 2  # the first step of SGD is linear in the loss
    assert torch.allclose(weights(0.5, one), middle, atol=1e-5)


def test_a_student_learns_from_its_teacher_what_wrong_labels_do_not_say(network, digits, cpu):
    recipe = FinetuneConfig(epochs=8, batch_size=32, lr=0.1)
    knowing, untaught, student = (copy.deepcopy(network) for _ in range(3))
    finetune(knowing, digits, recipe, cpu)
    shuffled = np.random.default_rng(0).permutation(digits.train.labels)
    wrong = Split(digits.train.images, digits.train.indices, shuffled)
    mislabelled = dataclasses.replace(digits, train=wrong)
    finetune(untaught, mislabelled, recipe, cpu)
    finetune(student, mislabelled, recipe, cpu, teacher=Teacher.of(knowing, 1.0, 4.0, cpu))
    networks = (untaught, student, knowing)
    alone, taught, best = (evaluate(n, digits.held_out, cpu).top1 for n in networks)
    assert alone < 40 and taught > 60 and taught > 0.8 * best, (alone, taught, best)
