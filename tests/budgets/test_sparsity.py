"""How many single weights go: exactly a share of all, or N of every M stay."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pass_transfer.budgets import Sparsity
from pass_transfer.errors import MaskError, UsageError

WEIGHTS = {"a.weight": torch.randn(8, 12, 3, 3), "b.weight": torch.randn(20, 8)}
COUNT = sum(weight.numel() for weight in WEIGHTS.values())


@given(st.floats(0.001, 0.999))
def test_exactly_the_share_goes(share):
    masks = Sparsity(share).cut({n: w.abs() for n, w in WEIGHTS.items()}, WEIGHTS)
    assert sum(masks.kept.values()) == round((1 - share) * COUNT)
    flat = torch.cat([w.abs().flatten() for w in WEIGHTS.values()])
    kept = torch.cat([mask.flatten() for mask in masks.values()])
    assert not kept.any() or kept.all() or flat[kept].min() >= flat[~kept].max()


@pytest.mark.parametrize("kept, of", [(2, 4), (1, 4), (1, 2)])
def test_a_pattern_keeps_the_best_of_every_few_inputs(kept, of):
    masks = Sparsity(pattern=f"{kept}:{of}").cut({n: w.abs() for n, w in WEIGHTS.items()}, WEIGHTS)
    for name, weight in WEIGHTS.items():
        mask = masks[name]
        for first in range(0, weight.shape[1], of):
            some = slice(first, first + of)
            assert (mask[:, some].sum(1) == kept).all()
            best = weight[:, some].abs().topk(kept, dim=1).values
            chosen = weight[:, some].abs().masked_fill(~mask[:, some], -1).topk(kept, dim=1).values
            assert torch.equal(chosen, best)


def test_equal_scores_of_a_pattern_keep_the_lower_input():
    weight = {"a.weight": torch.ones(2, 8)}
    mask = Sparsity(pattern="2:4").cut(weight, weight)["a.weight"]
    assert mask.tolist() == [[True, True, False, False] * 2] * 2


@pytest.mark.parametrize("share", [0, 1, 1.5, -0.1, float("nan"), "0.9", True])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(UsageError, match="above 0 and below 1"):
        Sparsity(share)


@pytest.mark.parametrize("pattern", ["4:2", "2:2", "0:4", "2", "2:4:8", "1:65", 2])
def test_a_pattern_that_is_none_is_refused(pattern):
    with pytest.raises(UsageError, match="N of every M"):
        Sparsity(pattern=pattern)


def test_one_of_both_has_to_be_given():
    for given_both in ({}, {"sparsity": 0.5, "pattern": "2:4"}):
        with pytest.raises(UsageError, match="one of them"):
            Sparsity(**given_both)


def test_a_pattern_that_does_not_divide_is_refused_with_the_layer():
    weights = {"stem.weight": torch.randn(4, 3, 3, 3)} | WEIGHTS
    with pytest.raises(MaskError, match="does not divide the 3 inputs of stem"):
        Sparsity(pattern="2:4").cut(weights, weights)


def test_what_is_saved_gives_the_same_again():
    for one in (Sparsity(0.9, keep_layers=["conv1"]), Sparsity(pattern="2:4")):
        assert Sparsity(**one.saved()) == one


def test_scores_of_another_network_or_no_numbers_are_refused():
    with pytest.raises(MaskError, match="another network"):
        Sparsity(0.5).cut({"a.weight": torch.ones(3, 4)}, WEIGHTS)
    broken = {n: w.clone() for n, w in WEIGHTS.items()}
    broken["b.weight"][0, 0] = float("nan")
    for one in (Sparsity(0.5), Sparsity(pattern="1:4")):
        with pytest.raises(MaskError, match="NaN"):
            one.cut(broken, WEIGHTS)
