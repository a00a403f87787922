import numpy as np
import torch
from sklearn.datasets import load_digits

from pass_transfer.tasks import load_task


def test_digits_are_all_there_in_three_splits(digits):
    assert digits.classes == 10 and digits.class_names == tuple("0123456789")
    assert digits.skipped == 0
    assert len(digits.train) + len(digits.held_out) + len(digits.test) == 1797
    assert len(digits.test) == 1797 // 5 and 0.08 < len(digits.held_out) / (1797 - 359) < 0.12


def test_images_and_labels_of_the_test_split_are_scikit_learns():
    data, test = load_digits(), load_task("digits", 8).test
    chosen = np.arange(1797) % 5 == 4
    images, labels = test.__getitems__(range(len(test)))
    assert labels.tolist() == data.target[chosen].tolist()
    assert images.shape == (359, 3, 8, 8) and images.dtype == torch.uint8
    assert (images[:, 0].numpy() - data.images[chosen] * 255 / 16 < 1).all()
    assert torch.equal(images[:, 0], images[:, 2])


def test_held_out_digits_are_a_tenth_of_every_class_and_the_same_in_every_run(digits):
    again = load_task("digits", 32)
    assert np.array_equal(digits.held_out.indices, again.held_out.indices)
    assert np.array_equal(digits.train.indices, again.train.indices)
    assert not set(digits.held_out.indices) & set(digits.train.indices)
    for c in range(10):
        held_out, trained_on = (digits.held_out.labels == c).sum(), (digits.train.labels == c).sum()
        assert 0.09 < held_out / (held_out + trained_on) < 0.11


def test_digits_may_not_be_mirrored(digits):
    assert not digits.mirrored


def test_one_image_is_read_like_a_batch_of_one(digits):
    image, label = digits.test[3]
    images, labels = digits.test.__getitems__([3])
    assert torch.equal(image, images[0]) and label == labels[0]
