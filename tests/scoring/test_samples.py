"""The images that channels are measured on."""

import pytest
import torch

from pass_transfer.scoring.samples import Samples


@pytest.mark.parametrize("size, largest", [(32, 100), (224, 32), (448, 8)])
def test_batches_of_large_images_are_small(digits, cpu, size, largest):
    found = list(Samples(digits.train, cpu, 100, 0, size=size))
    assert [len(labels) for _, labels in found][:-1] == [largest] * (len(found) - 1)
    assert sum(len(images) for images, _ in found) == 100
    at_once = next(iter(Samples(digits.train, cpu, 100, 0)))[1]
    assert torch.equal(torch.cat([labels for _, labels in found]), at_once)
