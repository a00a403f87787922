"""Many source tasks out of one dataset."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pass_transfer.scoring.source_tasks import VIEWS, make_source_tasks, see


@given(classes=st.integers(4, 300), count=st.integers(1, 30), seed=st.integers(0, 99))
def test_the_first_task_is_the_whole_dataset_and_the_others_are_parts_of_it(classes, count, seed):
    tasks = make_source_tasks(classes, count, seed)
    assert len(tasks) == count
    assert tasks[0].classes == tuple(range(classes)) and tasks[0].view == "plain"
    for task in tasks:
        assert list(task.classes) == sorted(set(task.classes)) and len(task.classes) >= 2
        assert 0 <= task.classes[0] and task.classes[-1] < classes
        assert task.view in VIEWS


def test_the_same_seed_gives_the_same_tasks_and_another_seed_others():
    assert make_source_tasks(200, 12, 3) == make_source_tasks(200, 12, 3)
    assert make_source_tasks(200, 12, 3) != make_source_tasks(200, 12, 4)


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_keeps_shape_and_range(view):
    images = torch.rand(3, 3, 32, 32)
    seen = see(images, view)
    assert seen.shape == images.shape and seen.min() >= 0 and seen.max() <= 1
    assert torch.equal(seen, images) == (view == "plain")


def test_grey_has_three_equal_channels_and_keeps_grey_images():
    seen = see(torch.rand(2, 3, 16, 16), "grey")
    assert torch.equal(seen[:, 0], seen[:, 1]) and torch.equal(seen[:, 1], seen[:, 2])
    grey = torch.rand(2, 1, 16, 16).expand(-1, 3, -1, -1)
    assert torch.allclose(see(grey, "grey"), grey, atol=1e-6)


@pytest.mark.parametrize(("view", "factor"), [("half", 2), ("quarter", 4), ("eighth", 8)])
def test_a_lower_resolution_forgets_what_is_finer(view, factor):
    fine = torch.zeros(1, 3, 32, 32)
    fine[..., ::2] = 1.0
    assert torch.allclose(see(fine, view), torch.full_like(fine, 0.5), atol=1e-5)
    flat = torch.full((1, 3, 32, 32), 0.3)
    assert torch.allclose(see(flat, view), flat, atol=1e-5)
