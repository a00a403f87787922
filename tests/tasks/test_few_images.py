"""A task with few images of each class."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pass_transfer.errors import TaskError, UsageError
from pass_transfer.tasks.few_images import check_images_per_class, few_images


def counts(split):
    return set(np.bincount(split.labels).tolist())


def test_every_class_has_as_many_images_as_asked_for_and_a_few_to_choose_by(digits):
    few = few_images(digits, 20, seed=1)
    assert counts(few.train) == {20} and counts(few.held_out) == {2}
    assert few.test is digits.test and few.classes == 10
    assert counts(few_images(digits, 2).held_out) == {1}
    assert few_images(digits, None) is digits


@settings(max_examples=20)
@given(st.integers(2, 40), st.integers(0, 40), st.integers(0, 9))
def test_more_images_contain_fewer_of_the_same_seed(digits, images, more, seed):
    few, many = few_images(digits, images, seed), few_images(digits, images + more, seed)
    for part in ("train", "held_out"):
        assert set(getattr(few, part).indices) <= set(getattr(many, part).indices)
    assert set(few.train.indices) <= set(digits.train.indices)


def test_another_seed_draws_other_images_and_the_same_seed_the_same(digits):
    first, again, other = (few_images(digits, 5, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.train.indices, again.train.indices)
    assert not np.array_equal(first.train.indices, other.train.indices)
    assert not np.array_equal(first.train.indices, few_images(digits, 6).train.indices)


def test_what_is_known_of_the_images_is_of_those_that_are_left(digits):
    few = few_images(digits, 5)
    assert few.overview.splits["train"].images == 50
    assert few.overview.splits["test"] == digits.overview.splits["test"]
    assert few.record.fingerprints() == digits.record.fingerprints(), "the data is the same"
    assert len(few.record.learned) == len(few.train) + len(few.held_out)
    assert set(few.record.learned) < set(digits.record.learned)


def test_a_class_with_fewer_images_is_named(digits):
    fewest = int(np.bincount(digits.train.labels).min())
    assert counts(few_images(digits, fewest).train) == {fewest}
    with pytest.raises(TaskError) as refusal:
        few_images(digits, fewest + 1)
    said = str(refusal.value)
    assert f"has {fewest} training images, and {fewest + 1} of each class" in said
    assert f"give at most {fewest}" in said


@pytest.mark.parametrize("images", [0, 1, -3, 2.5, "ten", True])
def test_what_is_no_number_of_images_is_refused(images):
    with pytest.raises(UsageError, match="images_per_class is .* a whole number from 2"):
        check_images_per_class(images)


def test_all_images_are_no_number():
    check_images_per_class(None)
    check_images_per_class(2)
