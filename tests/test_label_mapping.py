import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pass_transfer.errors import UsageError
from pass_transfer.label_mapping import (
    choose_mapping,
    count_predictions,
    frequency_mapping,
    mapped_classifier,
)

tables = st.integers(1, 6).flatmap(
    lambda t: st.integers(t, 9).flatmap(
        lambda s: st.lists(
            st.lists(st.integers(0, 4), min_size=s, max_size=s), min_size=t, max_size=t
        )
    )
)


def greedy(counts: list[list[int]]) -> list[int]:
    """The largest count that is still free, again and again; the first among equals, row by row."""
    mapping = {}
    while len(mapping) < len(counts):
        targets = [t for t in range(len(counts)) if t not in mapping]
        sources = [s for s in range(len(counts[0])) if s not in mapping.values()]
        free = itertools.product(targets, sources)
        target, source = max(free, key=lambda cell: counts[cell[0]][cell[1]])
        mapping[target] = source
    return [mapping[t] for t in range(len(counts))]


@given(tables)
def test_frequency_mapping_pairs_greedily_and_one_to_one(counts):
    mapping = frequency_mapping(torch.tensor(counts)).tolist()
    assert mapping == greedy(counts)
    assert len(set(mapping)) == len(mapping)


def test_classes_that_are_never_predicted_are_mapped_too():
    assert sorted(frequency_mapping(torch.zeros(3, 4, dtype=torch.int64)).tolist()) == [0, 1, 2]


def test_more_classes_than_source_classes_cannot_be_mapped():
    with pytest.raises(UsageError, match="3 classes one to one onto 2"):
        frequency_mapping(torch.zeros(3, 2))


def test_predictions_are_counted_by_class():
    logits = torch.eye(4)[[0, 0, 3, 1, 0]]
    counts = count_predictions(logits, torch.tensor([0, 0, 0, 1, 1]), 3)
    assert counts.tolist() == [[2, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("bias", [True, False])
def test_a_mapped_classifier_gives_the_selected_source_logits(bias):
    source, mapping = nn.Linear(12, 9, bias=bias), torch.tensor([7, 0, 3])
    features = torch.randn(5, 12)
    head = mapped_classifier(source, mapping)
    torch.testing.assert_close(head(features), source(features)[:, mapping])
    assert head.out_features == 3 and (head.bias is not None) == bias


def test_a_mapped_classifier_trains_without_touching_the_source():
    source = nn.Linear(4, 3)
    before = source.weight.clone()
    head = mapped_classifier(source.requires_grad_(False), torch.tensor([2, 0]))
    nn.init.zeros_(head.weight)
    assert torch.equal(source.weight, before) and head.weight.requires_grad


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("auto", "linear"),
        ("linear", "linear"),
        ("frequency", "frequency"),
        ("iterative", "iterative"),
    ],
)
def test_the_mapping_that_is_used(kind, expected):
    assert choose_mapping(kind, 10, 200) == expected


def test_a_classifier_of_ones_own_with_as_many_classes_is_mapped_unless_told_otherwise():
    assert choose_mapping("auto", 10, 10, own=True) == "frequency"
    assert choose_mapping("auto", 10, 11, own=True) == "linear"
    assert choose_mapping("auto", 10, 10) == "linear"
    assert choose_mapping("linear", 10, 10, own=True) == "linear"


@pytest.mark.parametrize("kind", ["frequency", "iterative"])
def test_a_one_to_one_mapping_is_refused_for_more_classes_than_the_source_has(kind):
    assert choose_mapping(kind, 200, 200) == kind
    with pytest.raises(UsageError, match="200.*201.*label_mapping 'linear'"):
        choose_mapping(kind, 201, 200)


def test_an_unknown_mapping_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="auto, linear, frequency"):
        choose_mapping("random", 10, 200)
