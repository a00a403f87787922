import numpy as np
import pytest
import torch

from pass_transfer.tasks import Split
from pass_transfer.tasks.readers import CachedImages
from pass_transfer.training import batches, to_images

SIDE = 16


@pytest.fixture
def split():
    """103 images, each of its own colour, which is also its label."""
    colours = np.arange(103, dtype=np.uint8)[:, None, None, None]
    pixels = np.broadcast_to(colours, (103, SIDE, SIDE, 3))
    return Split(CachedImages(pixels), np.arange(103), np.arange(103))


def order(split, size=10, **options) -> list[list[int]]:
    return [labels.tolist() for _, labels in batches(split, size, **options)]


def test_images_and_labels_stay_together(split):
    for images, labels in batches(split, 10, seed=3):
        assert images.shape == (10, 3, SIDE, SIDE) and images.dtype == torch.uint8
        assert images[:, 0, 0, 0].tolist() == labels.tolist()


def test_without_a_seed_every_image_comes_in_order(split):
    assert sum(order(split), []) == list(range(103))


def test_an_epoch_is_shuffled_and_has_whole_batches_only(split):
    seen = order(split, seed=1)
    assert [len(b) for b in seen] == [10] * 10
    flat = sum(seen, [])
    assert len(set(flat)) == 100 and flat != sorted(flat)


def test_the_order_depends_on_seed_and_epoch_alone(split):
    first = order(split, seed=1, epoch=2)
    torch.manual_seed(99)
    assert order(split, seed=1, epoch=2) == first
    assert order(split, seed=1, epoch=3) != first and order(split, seed=2, epoch=2) != first


@pytest.mark.parametrize("start", [0, 1, 7, 10])
def test_a_later_start_leaves_out_what_was_done(split, start):
    assert order(split, seed=1, start=start) == order(split, seed=1)[start:]


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_every_batch(split, world):
    shares = [order(split, seed=1, rank=rank, world=world) for rank in range(world)]
    for whole, *parts in zip(order(split, seed=1), *shares):
        sizes = [len(part) for part in parts]
        assert sorted(sum(parts, [])) == sorted(whole)
        assert max(sizes) - min(sizes) <= 1


def test_fewer_images_than_a_batch_are_one_batch(split):
    assert sorted(order(split.subset(np.arange(5)), size=10, seed=1)[0]) == [0, 1, 2, 3, 4]


def test_a_stage_may_choose_the_images(split):
    assert order(split, order=[torch.tensor([5, 5, 1]), torch.tensor([102])]) == [[5, 5, 1], [102]]


def test_images_are_floats_between_zero_and_one(cpu):
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, -1, -1)
    images = to_images(pixels, cpu.device)
    assert torch.equal(images, pixels.float() / 255)
    assert images.is_contiguous(memory_format=torch.channels_last)
