"""Which labels belong together, against a union-find in plain Python."""

from collections import defaultdict

import torch
from hypothesis import given
from hypothesis import strategies as st

from pass_transfer.networks.labels import NONE, Ties, collapsed, joined, varies

MOST = 12
PAIRS = st.lists(st.tuples(st.integers(0, MOST - 1), st.integers(0, MOST - 1)), max_size=20)


class Forest:
    """What is joined belongs together."""

    def __init__(self, members):
        self.parent = {member: member for member in members}

    def root(self, member):
        while self.parent[member] != member:
            member = self.parent[member]
        return member

    def join(self, one, other):
        self.parent[self.root(one)] = self.root(other)

    def sets(self):
        found = defaultdict(set)
        for member in self.parent:
            found[self.root(member)].add(member)
        return {frozenset(members) for members in found.values()}


def sets_of(ties, labels):
    """The sets of labels that are tied."""
    found = defaultdict(set)
    for label, number in zip(labels, ties.classes().of(torch.tensor(labels)).tolist()):
        found[number].add(label)
    return {frozenset(members) for members in found.values()}


@given(PAIRS)
def test_ties_of_channels_are_those_of_a_union_find(pairs):
    ties, forest = Ties(), Forest(range(MOST))
    ties.new(MOST)
    for one, other in pairs:
        ties.tie(torch.tensor([one]), torch.tensor([other]))
        forest.join(one, other)
    assert sets_of(ties, range(MOST)) == forest.sets()


@given(PAIRS)
def test_the_order_of_ties_does_not_matter(pairs):
    found = []
    for order in (pairs, pairs[::-1]):
        ties = Ties()
        ties.new(MOST)
        for one, other in order:
            ties.tie(torch.tensor([other]), torch.tensor([one]))
        found.append(sets_of(ties, range(MOST)))
    assert found[0] == found[1]


@given(PAIRS, PAIRS, PAIRS)
def test_an_own_label_joins_the_channels_that_it_serves_if_these_are_one_class(
    among_channels, among_own, between
):
    ties, channels, own = Ties(), Forest(range(MOST)), Forest(range(-MOST, 0))
    ties.new(MOST)
    ties.new_own(MOST)
    for one, other in among_channels:
        ties.tie(torch.tensor([one]), torch.tensor([other]))
        channels.join(one, other)
    for one, other in among_own:
        ties.tie(torch.tensor([-1 - one]), torch.tensor([-1 - other]))
        own.join(-1 - one, -1 - other)
    served = defaultdict(set)
    for one, other in between:
        ties.tie(torch.tensor([one]), torch.tensor([-1 - other]))
        served[own.root(-1 - other)].add(channels.root(one))
    both = Forest(range(-MOST, MOST))
    for forest in (channels, own):
        for member in forest.parent:
            both.join(member, forest.root(member))
    for of_own, of_channels in served.items():
        if len(of_channels) == 1:
            both.join(of_own, *of_channels)
    assert sets_of(ties, range(-MOST, MOST)) == both.sets()


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 1))
def test_ties_along_an_axis_are_one_set_for_each_line(rows, columns, axis):
    ties = Ties()
    labels = ties.new(rows * columns).view(rows, columns)
    ties.tie_along(labels, (axis,))
    lines = labels.unbind(1 - axis)
    expected = {frozenset(line.tolist()) for line in lines}
    assert sets_of(ties, range(rows * columns)) == expected


def test_nothing_is_tied_to_none():
    ties = Ties()
    labels = ties.new(3)
    ties.tie(labels, torch.tensor([NONE, NONE, NONE]))
    ties.tie_all(torch.tensor([0, NONE]))
    assert len(sets_of(ties, range(3))) == 3
    assert ties.classes().of(torch.tensor([NONE, 1])).tolist() == [NONE, 1]


def test_tie_all_makes_one_set_and_leaves_the_others():
    ties = Ties()
    ties.new(5)
    ties.tie_all(torch.tensor([[4, 0], [NONE, 2]]))
    assert sets_of(ties, range(5)) == {frozenset({0, 2, 4}), frozenset({1}), frozenset({3})}


LABELS = st.lists(st.sampled_from([NONE, -2, -1, 0, 1, 2]), min_size=6, max_size=6)


@given(LABELS, st.integers(0, 1))
def test_labels_vary_along_an_axis_where_some_line_has_two(labels, axis):
    table = torch.tensor(labels).view(2, 3)
    lines = table.movedim(axis, -1).tolist()
    assert varies(table, axis) == any(len(set(line) - {NONE}) > 1 for line in lines)


def test_labels_do_not_vary_along_an_axis_on_which_a_tensor_is_expanded():
    table = torch.tensor([[0], [1]]).expand(2, 3)
    assert varies(table, 0) and not varies(table, 1)


@given(LABELS, LABELS)
def test_of_several_tensors_a_channel_gives_its_label_before_an_own_tensor_does(one, other):
    found = joined([torch.tensor(one), torch.tensor(other)], torch.Size([6]))
    kind = [2 if label >= 0 else 1 if label != NONE else 0 for label in one + other]
    expected = [a if m >= n else b for a, b, m, n in zip(one, other, kind, kind[6:])]
    assert found.tolist() == expected


@given(LABELS, st.booleans())
def test_a_collapsed_axis_keeps_the_label_of_its_line(labels, keep):
    rows = [[label] * 3 for label in labels]
    found = collapsed(torch.tensor(rows), (-1,), keep)
    assert found.tolist() == ([[label] for label in labels] if keep else labels)
