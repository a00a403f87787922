"""A cut that is not what its masks say is told before anything is trained."""

import copy

import pytest
import torch
from torch import nn

from pass_transfer.errors import BackboneError
from pass_transfer.masking.agreement import check_agreement
from pass_transfer.networks import find_groups

SIDE = 16


class Between(nn.Module):
    """Two convolutions with something between them that looks at the number of channels."""

    def __init__(self, between):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 8, 3)
        self.head, self.between = nn.Linear(8, 5), between

    def forward(self, images):
        x = self.between(self.first(images))
        return self.head(self.second(x).mean((2, 3)))


@pytest.mark.parametrize(
    "between, words",
    [
        (lambda x: x * x.shape[1] ** -0.5, "does not compute what it computes with these masked"),
        (lambda x: x.reshape(1, 12, x.shape[2], -1), "its code fails with fewer channels"),
    ],
    ids=["a factor", "a number"],
)
def test_code_that_depends_on_the_number_of_channels_is_refused(between, words):
    network = Between(between).eval()
    with pytest.raises(BackboneError, match=words):
        check_agreement(network, find_groups(network, SIDE), SIDE)


def test_a_network_that_can_be_cut_passes_and_stays_as_it_is(resnet18, groups):
    before = copy.deepcopy(resnet18.state_dict())
    resnet18.train()
    check_agreement(resnet18, groups, 32)
    assert resnet18.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in resnet18.state_dict().items())
