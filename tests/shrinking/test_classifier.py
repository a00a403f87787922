import copy

import numpy as np
import pytest
import torch
from torch import nn

from pass_transfer.networks import set_classifier
from pass_transfer.networks.network import Network
from pass_transfer.shrinking.classifier import class_features, class_mean_head, fit_head
from pass_transfer.shrinking.recalibrate import recalibrate
from pass_transfer.training import evaluate, to_images

MEAN, STD = (0.5,) * 3, (0.25,) * 3


def clusters(classes: int = 4, each: int = 60, width: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussian classes that share one covariance."""
    labels = torch.arange(classes).repeat_interleave(each)
    return 1.5 * torch.randn(classes, width)[labels] + torch.randn(
        len(labels), width
    ) @ torch.randn(width, width), labels


def test_the_head_chooses_the_nearest_class_mean_in_mahalanobis_distance():
    features, labels = clusters()
    x, y = features.double().numpy(), labels.numpy()
    means = np.stack([x[y == c].mean(0) for c in range(4)])
    residuals = x - means[y]
    covariance = residuals.T @ residuals / (len(x) - 4)
    shrunk = 0.9 * covariance + 0.1 * np.trace(covariance) / 6 * np.eye(6)
    distances = np.stack(
        [np.einsum("ni,ij,nj->n", x - m, np.linalg.inv(shrunk), x - m) for m in means], 1
    )
    chosen = class_mean_head(features, labels, 4)(features).argmax(1)
    assert np.array_equal(chosen.numpy(), distances.argmin(1))


def test_the_heads_logits_are_neither_too_sure_nor_too_timid():
    features, labels = clusters()
    features[::4] *= -3  # outliers of which a discriminant would be far too sure
    logits = class_mean_head(features, labels, 4)(features).detach()
    loss = nn.functional.cross_entropy
    assert loss(logits, labels) < loss(2 * logits, labels) and loss(logits, labels) < loss(
        0.5 * logits, labels
    )


def test_a_class_without_images_gets_a_zero_row_and_the_others_still_work():
    features, labels = clusters()
    head = class_mean_head(features, labels, 6)
    assert (
        not head.weight[4:].any()
        and torch.isfinite(head.weight).all()
        and torch.isfinite(head.bias).all()
    )
    assert (head(features)[:, :4].argmax(1) == labels).float().mean() > 0.5


def test_fewer_images_than_features_are_enough():
    features, labels = torch.randn(6, 50), torch.tensor([0, 0, 1, 1, 2, 2])
    head = class_mean_head(features, labels, 3)
    assert (head(features).argmax(1) == labels).all()


def test_features_are_what_the_classifier_sees(little, digits, cpu):
    network, split = Network(little, MEAN, STD).eval(), digits.train.subset(np.arange(300))
    features, labels = class_features(network, split, cpu)
    assert len(features) == 300, "no image is left out"
    pixels, expected_labels = split.__getitems__(range(300))
    with torch.no_grad():
        logits = network(to_images(pixels, cpu.device))
        found = {tuple(row.round(decimals=3).tolist()) for row in little.fc(features)}
    assert found == {tuple(row.round(decimals=3).tolist()) for row in logits}
    assert sorted(labels.tolist()) == sorted(expected_labels.tolist())
    assert not little.fc._forward_pre_hooks


def test_no_more_images_than_asked_for_are_read_but_for_the_last_batch(little, digits, cpu):
    features, _ = class_features(Network(little, MEAN, STD), digits.train, cpu, images=300)
    assert len(features) == 512


def test_a_fitted_head_classifies_digits_from_random_features(little, digits, cpu):
    network = Network(little, MEAN, STD)
    set_classifier(little, nn.Linear(16, 200))
    recalibrate(network, digits.train, cpu)
    fit_head(network, digits.train, digits.classes, cpu)
    assert little.fc.out_features == 10
    assert evaluate(network.eval(), digits.held_out, cpu).top1 > 40


@pytest.mark.parametrize("path", ["fc", "1.head"])
def test_the_last_linear_layer_is_replaced_wherever_it_is(path):
    network = nn.Sequential(nn.Linear(4, 4), nn.Sequential()) if path == "1.head" else nn.Module()
    network.get_submodule(path.rpartition(".")[0]).add_module(
        path.rpartition(".")[2], nn.Linear(4, 2)
    )
    fresh = nn.Linear(4, 7)
    set_classifier(network, fresh)
    assert network.get_submodule(path) is fresh


def test_the_same_seed_gives_the_same_head(little, digits, cpu):
    networks = [Network(copy.deepcopy(little), MEAN, STD) for _ in range(2)]
    for network in networks:
        fit_head(network, digits.train, 10, cpu, seed=3)
    assert torch.equal(networks[0].backbone.fc.weight, networks[1].backbone.fc.weight)
