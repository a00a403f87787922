"""What is known of the source, used where images of the task are few."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import norm, rankdata

from pass_transfer.scoring import methods
from pass_transfer.scoring.method import Context
from pass_transfer.scoring.nearest_tasks import class_means, distance
from pass_transfer.scoring.prior import mix, standardise
from pass_transfer.scoring.registry import choose_method
from pass_transfer.tasks import load_task
from pass_transfer.tasks.few_images import few_images
from pass_transfer.zoo.entry import load_hypernet


@pytest.fixture(scope="module")
def hypernet(entry):
    return load_hypernet(entry)


@pytest.fixture(scope="module")
def whole(hypernet):
    return load_task("digits", hypernet.spec.preprocessing)


def context_of(hypernet, task, cpu, name, **given):
    chosen = choose_method(name, given)
    context = Context(hypernet.dense, hypernet.groups, task, cpu, hypernet, chosen.settings)
    return context, chosen


def quantiles(values):
    """Normal quantiles of ranks by scipy, float32; of equal values the first has the best one."""
    ranks = rankdata(values[::-1], "ordinal")[::-1]
    return np.clip(norm.ppf((ranks - 0.5) / len(values)), -2.5, 2.5).astype(np.float32)


def test_a_mix_is_the_weighted_sum_of_quantiles_ranked_again():
    one, two = torch.randn(9), torch.randn(9)
    expected = quantiles(0.2 * quantiles(one.numpy()) + 0.8 * quantiles(two.numpy()))
    found = mix([(0.2, {"a": one}), (0.8, {"a": two})])["a"]
    torch.testing.assert_close(found, torch.from_numpy(expected).float())
    assert torch.equal(
        mix([(1.0, {"a": one}), (0.0, {"a": two})])["a"], standardise({"a": one})["a"]
    )


@pytest.mark.parametrize("images, weight", [(5, 0.2), (20, 0.5), (60, 0.75)])
def test_the_tasks_measurement_counts_by_the_number_of_images(
    hypernet, whole, cpu, capsys, images, weight
):
    context, fused = context_of(
        hypernet, few_images(whole, images), cpu, "fused", images=64, half=20
    )
    scores = fused.score(context).scores
    own = choose_method("taylor_l1", {"images": 64})
    measured = own.score(dataclasses.replace(context, settings=own.settings)).scores
    source = hypernet.scores(hypernet.prompt())
    expected = mix([(weight, measured), (1 - weight, source)])
    assert all(torch.equal(scores[name], expected[name]) for name in expected)
    assert f"counts {weight:.2f}, the source's ranking {1 - weight:.2f}" in capsys.readouterr().err


def test_the_sources_ranking_may_be_its_forward_selection(hypernet, whole, cpu, monkeypatch):
    context, fused = context_of(hypernet, few_images(whole, 5), cpu, "fused", images=64, data="x")
    asked = []

    def selection(context):
        asked.append(context.settings.data)
        return {name: torch.arange(g.width) / 1.0 for name, g in context.groups.items()}

    monkeypatch.setattr(methods.fused, "source_selection", selection)
    fused.score(context)
    assert asked == ["x"]


def test_the_distance_is_that_to_the_nearest_class():
    one, two = torch.randn(4, 7), torch.randn(6, 7)
    expected = cdist(one.numpy(), two.numpy()).min(1).mean()
    assert distance(one, two) == pytest.approx(expected, rel=1e-5)
    assert distance(one, torch.cat([two, one])) == pytest.approx(0, abs=1e-5)


def test_a_task_is_nearest_to_the_source_task_of_its_own_classes(hypernet, whole, cpu):
    network = hypernet.dense.network()
    mine = class_means(network, few_images(whole, 20).train, cpu, 0)
    assert mine.shape == (10, 512)

    def part(labels):
        return whole.train.subset(np.flatnonzero(np.isin(whole.train.labels, labels)))

    near, far = (class_means(network, part(labels), cpu, 0) for labels in (range(10), (0, 1)))
    assert far.shape == (2, 512)
    assert distance(mine, near) < distance(mine, far)


def test_the_rankings_of_the_nearest_source_tasks_are_averaged(
    hypernet, whole, cpu, capsys, monkeypatch
):
    given = {"images": 60, "tasks": 4, "nearest": 2}
    context, nearest = context_of(hypernet, few_images(whole, 6), cpu, "nearest_tasks", **given)
    kept, ranking = [], methods.nearest_tasks._ranking

    def watched(context, task, part):
        kept.append((task.name, ranking(context, task, part)))
        return kept[-1][1]

    monkeypatch.setattr(methods.nearest_tasks, "_ranking", watched)
    scores = nearest.score(context).scores
    said = capsys.readouterr().err
    assert "the nearest of 4 source tasks" in said and all(name in said for name, _ in kept)
    assert len(kept) == 2
    for name, values in scores.items():
        total = sum(quantiles(part[name].numpy()) for _, part in kept)
        torch.testing.assert_close(values, torch.from_numpy(quantiles(total)))
    again = nearest.score(context).scores
    assert all(torch.equal(again[name], scores[name]) for name in scores)
