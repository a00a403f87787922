import torch

from pass_transfer.scoring.random import random_scores


def test_random_scores_depend_on_the_seed_alone(groups):
    first = random_scores(groups, 5)
    torch.manual_seed(123)
    again, other = random_scores(groups, 5), random_scores(groups, 6)
    assert all(torch.equal(first[n], again[n]) for n in groups)
    assert not any(torch.equal(first[n], other[n]) for n in groups)


def test_random_scores_are_uniform_over_all_units(groups):
    flat = groups.join(random_scores(groups, 0))
    assert len(flat) == groups.total and flat.min() >= 0 and flat.max() < 1
    assert abs(flat.mean() - 0.5) < 0.03 and abs(flat.var() - 1 / 12) < 0.01
