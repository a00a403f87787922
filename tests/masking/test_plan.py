"""Which backbones have a plan of fused steps, and what is said where one has none."""

import pytest
import torch
from torch import nn

from pass_transfer.masking.plan import Channelwise, Layer, plan_of, why_unplanned
from pass_transfer.networks import find_groups


class Net(nn.Module):
    """Two convolutions and a classifier; a subclass says how they are joined."""

    def __init__(self, **layers: nn.Module):
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.two = nn.Conv2d(8, 8, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 4)
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.end(self.two(torch.relu(self.norm(self.one(x)))))

    def end(self, x):
        return self.head(torch.flatten(self.pool(x), 1))


class WithScalar(Net):
    def forward(self, x):
        return self.end(self.two(self.norm(self.one(x))) + 1)


class Scaled(Net):
    def forward(self, x):
        x = self.norm(self.one(x))
        return self.end(torch.add(x, self.two(x), alpha=2))


class IdentityFirst(Net):
    def forward(self, x):
        x = self.norm(self.one(x))
        return self.end(x + self.two(x))


class Branching(Net):
    def forward(self, x):
        x = self.norm(self.one(x))
        return self.end(self.two(x) if x.mean() > 0 else x)


class ByKeyword(Net):
    def forward(self, x):
        return self.end(self.two(input=self.norm(self.one(x))))


class Residual(Net):
    """What a residual block does: everything can be fused."""

    def __init__(self):
        super().__init__(act=nn.ReLU())

    def forward(self, x):
        x = self.act(self.norm(self.one(x)))
        return self.end(self.act(self.two(x) + x))


@pytest.mark.parametrize(
    "network, why",
    [
        (Net(), "there is no step for call_function relu"),
        (Net(two=nn.Conv2d(8, 8, 3, groups=2)), "call_function relu"),
        (WithScalar(), "there is no step for call_function add"),
        (Scaled(), "there is no step for call_function add"),
        (IdentityFirst(), "adds what no layer made"),
        (Branching(), "torch.fx cannot trace it: .*control flow"),
        (ByKeyword(), "not given its input by position"),
        (Net(one=nn.Conv2d(3, 8, 3, padding="same")), "one pads in its own way"),
        (Net(norm=nn.BatchNorm2d(8, affine=False)), "norm has no weight"),
        (Net(norm=nn.GroupNorm(2, 8)), r"there is no step for norm \(GroupNorm\)"),
    ],
)
def test_a_backbone_without_a_plan_says_why(network, why):
    groups = find_groups(Net(), 16)
    assert plan_of(network, groups) is None
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(why_unplanned(network, groups))


def test_grouped_convolutions_are_named(networks):
    network, groups = networks("resnext50_32x4d")
    assert "in order" in why_unplanned(network, groups)
    network, groups = networks("mobilenet_v2")
    assert why_unplanned(network, groups) == "features.1.conv.0.0 is a grouped convolution"


def test_an_error_of_our_own_is_not_taken_for_a_backbone_without_a_plan(monkeypatch):
    network = Net()
    groups = find_groups(network, 16)

    def broken(*_):
        raise KeyError("a mistake")

    monkeypatch.setattr("pass_transfer.masking.plan._check_order", broken)
    with pytest.raises(KeyError, match="a mistake"):
        plan_of(network, groups)


def test_everything_behind_a_convolution_is_fused_to_it():
    network = Residual()
    groups = find_groups(network, 16)
    plan = plan_of(network, groups)
    assert why_unplanned(network, groups) is None and plan_of(network, groups) is plan
    first, second, pooled, flat, last = plan.steps
    assert (first.layer, first.norm, first.residual, first.relu) == ("one", "norm", None, True)
    assert (second.layer, second.residual, second.relu) == ("two", first.name, True)
    assert isinstance(pooled, Channelwise) and isinstance(flat, Channelwise)
    assert isinstance(last, Layer) and last.layer == "head" and plan.result == last.name


def test_other_groups_of_the_same_backbone_have_a_plan_of_their_own():
    network = Residual()
    plan = plan_of(network, find_groups(network, 16))
    assert plan_of(network, find_groups(network, 16)) is not plan
