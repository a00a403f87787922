"""Shrinkage and temperature chosen on images left out, against folds fitted one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pass_transfer.shrinking.classifier import class_mean_head
from pass_transfer.shrinking.cross_validation import (
    FOLDS,
    SHRINKAGES,
    TEMPERATURES,
    cross_validate,
    deal,
)


def few_images(classes=8, each=6, width=60):
    """Gaussian classes of more features than a class has images, and many more of each to test."""
    means, root = 0.35 * torch.randn(classes, width), torch.randn(width, width) / width**0.5
    labels = torch.arange(classes).repeat_interleave(each + 100)
    features = means[labels] + torch.randn(len(labels), width) @ (root + torch.eye(width))
    known = torch.arange(len(labels)) % (each + 100) < each
    return features[known], labels[known], features[~known], labels[~known]


def discriminant(x, labels, classes, shrinkage):
    """Logits of a linear discriminant as a function of features, in numpy."""
    means = np.stack([x[labels == c].mean(0) for c in range(classes)])
    residuals = x - means[labels]
    covariance = residuals.T @ residuals / (len(x) - classes)
    size = len(covariance)
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / size * np.eye(size)
    weight = np.linalg.solve(shrunk, means.T)
    return lambda seen: seen @ weight - 0.5 * np.einsum("cd,dc->c", means, weight)


def losses_left_out(features, labels, classes, seed):
    """Mean cross-entropy of every image by the folds without it, for each choice."""
    x, y, folds = features.double().numpy(), labels.numpy(), deal(labels, seed).numpy()
    found = {}
    for shrinkage in SHRINKAGES:
        logits = np.zeros((len(x), classes))
        for fold in range(FOLDS):
            own = folds == fold
            logits[own] = discriminant(x[~own], y[~own], classes, shrinkage)(x[own])
        for temperature in TEMPERATURES:
            scaled = temperature * logits
            likely = scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True)
            found[shrinkage, temperature] = -likely[np.arange(len(y)), y].mean()
    return found


def test_the_choice_has_the_least_loss_on_images_left_out():
    features, labels, _, _ = few_images()
    found = cross_validate(features, labels, 8, seed=3)
    losses = losses_left_out(features, labels, 8, seed=3)
    best = min(losses, key=losses.get)
    assert (found.shrinkage, found.temperature) == best
    assert found.loss == pytest.approx(losses[best], rel=1e-6)


def test_each_folds_classifier_is_made_without_its_images():
    features, labels, _, _ = few_images()
    found = cross_validate(features, labels, 8)
    x, y = features.double().numpy(), labels.numpy()
    for fold, head in enumerate(found.of_folds):
        known = found.folds.numpy() != fold
        logits = discriminant(x[known], y[known], 8, found.shrinkage)(x)
        expected = torch.from_numpy(found.temperature * logits).float()
        torch.testing.assert_close(head(features).detach(), expected, rtol=1e-3, atol=1e-3)
    whole = torch.from_numpy(found.temperature * discriminant(x, y, 8, found.shrinkage)(x)).float()
    torch.testing.assert_close(found.whole(features).detach(), whole, rtol=1e-3, atol=1e-3)


def test_with_few_images_its_loss_on_others_is_below_chance_where_the_fixed_ones_is_not():
    features, labels, others, truth = few_images()
    chance = float(np.log(8))
    loss = torch.no_grad()(nn.functional.cross_entropy)
    fixed = class_mean_head(features, labels, 8)
    chosen = cross_validate(features, labels, 8)
    assert loss(fixed(features), labels) < 0.1 < chance < loss(fixed(others), truth)
    assert loss(chosen.whole(others), truth) < chance
    assert loss(chosen.whole(others), truth) == pytest.approx(chosen.loss, abs=0.5)


@settings(max_examples=40)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 99))
def test_every_class_is_dealt_out_evenly(counts, seed):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    folds = deal(labels, seed)
    parts = [folds[labels == label] for label in range(len(counts))]
    for part in [*parts, folds]:
        sizes = torch.bincount(part, minlength=FOLDS)
        assert sizes.max() - sizes.min() <= 1


def test_where_no_image_can_be_left_out_nothing_is_chosen():
    assert cross_validate(torch.randn(5, 3), torch.arange(5), 5) is None
    labels = torch.tensor([0, 0, 1, 2])  # those of the last two classes cannot be judged
    found = cross_validate(torch.randn(4, 3), labels, 3)
    assert found is not None and np.isfinite(found.loss)
    assert (found.folds[:2] < FOLDS).all() and (found.folds[2:] == FOLDS).all()


def test_the_same_seed_gives_the_same_choice():
    features, labels, _, _ = few_images()
    one, two = (cross_validate(features, labels, 8, seed=1) for _ in range(2))
    assert torch.equal(one.whole.weight, two.whole.weight) and torch.equal(one.folds, two.folds)
