import copy

import numpy as np
import pytest
import torch
from torch import nn

from pass_transfer.baselines import group_l1
from pass_transfer.hypernet import Hypernet, HypernetConfig, standardise
from pass_transfer.selection import select
from pass_transfer.prompts import Prompt


@pytest.fixture(scope="module")
def prior(networks):
    return standardise(group_l1(*networks("resnet18"), 32))


@pytest.fixture
def net(networks, prior) -> Hypernet:
    torch.manual_seed(3)
    return Hypernet(HypernetConfig(), *networks("resnet18"), prior).double()


def frame(seed: int = 0, size: int = 32) -> torch.Tensor:
    return 5 * Prompt(size=size, pad=3, seed=seed).frame().detach().double()


def test_scores_are_finite_one_for_every_unit_and_the_same_every_time(net, groups):
    scores = net(frame())
    assert scores.shape == (groups.total,) and torch.isfinite(scores).all()
    assert torch.equal(net(frame()), scores)


def test_another_prompt_gives_other_scores_and_other_masks(net, groups):
    one, two = net(frame(1)).detach(), net(frame(2)).detach()
    assert (one - two).std() > 1e-3 * one.std()
    masks = [select(groups.split(s), groups, density=0.5) for s in (one, two)]
    assert masks[0].difference(masks[1]) > 0


def test_a_louder_prompt_corrects_more(net):
    corrections = [(net(factor * frame()) - net.prior).detach().square().mean() for factor in (0.5, 1, 2, 4)]
    assert corrections == sorted(corrections) and corrections[0] > 0


def test_where_a_pattern_is_matters(net):
    assert not torch.allclose(net(frame().flip(1)), net(frame()), atol=1e-5)


def test_a_prompt_of_zeros_has_the_priors_scores_and_can_be_tuned_from_there(net, groups):
    zeros = torch.zeros(3, 32, 32, dtype=torch.float64, requires_grad=True)
    scores = net(zeros)
    assert torch.equal(scores, net.prior)
    (scores * torch.randn(groups.total, dtype=torch.float64)).sum().backward()
    assert zeros.grad.abs().sum() > 0


@pytest.mark.parametrize("size", [16, 64, 100])
def test_prompts_of_every_size_are_read(net, groups, size):
    assert net(frame(size=size)).shape == (groups.total,)


@pytest.mark.parametrize("spread", [0.02, 100.0])
def test_corrections_are_bounded_and_do_not_shift_a_group(net, groups, spread):
    for layer in net.heads:
        nn.init.normal_(layer.weight, std=spread)
    corrections = groups.split((net(frame()) - net.prior).detach())
    for correction in corrections.values():
        assert correction.max() - correction.min() <= 2 * net.config.correction + 1e-9
        assert abs(correction.mean()) <= 1e-6


def test_an_untrained_hypernetwork_mostly_keeps_the_priors_order(net, groups, prior):
    scores = net(frame()).detach()
    for name, values in groups.split(scores).items():
        correlation = np.corrcoef(values.argsort().argsort(), prior[name].argsort().argsort())[0, 1]
        assert correlation > 0.95
    assert select(groups.split(scores), groups, density=0.5).difference(select(prior, groups, density=0.5, uniform=True)) < 0.1


def test_without_a_prior_scores_start_near_zero(networks, groups):
    scores = Hypernet(HypernetConfig(prior="none"), *networks("resnet18"))(frame().float())
    assert 0 < scores.abs().max() < 1


def test_at_the_published_width_it_has_about_the_published_number_of_parameters(networks):
    small = Hypernet(HypernetConfig(hidden=64, encoder=(8, 16)), *networks("resnet18"))
    assert 0.30e6 < sum(p.numel() for p in small.parameters()) < 0.34e6  # arXiv 2407.17412: 0.31 M for ResNet-18


def test_the_gradient_reaches_the_frame_and_every_parameter(net, groups):
    given = frame().requires_grad_()
    (net(given) * torch.randn(groups.total, dtype=torch.float64)).sum().backward()
    assert given.grad.abs().sum() > 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_the_backbones_weights_are_read_but_are_no_part_of_it(networks, prior, net):
    network, groups = networks("resnet18")
    assert not any("kernel" in name for name in net.state_dict())
    other = copy.deepcopy(network)
    nn.init.normal_(other.layer2[0].conv1.weight)
    torch.manual_seed(3)
    changed = Hypernet(HypernetConfig(), other, groups, prior).double()
    assert all(torch.equal(t, changed.state_dict()[n]) for n, t in net.state_dict().items())
    assert not torch.equal(changed(frame()), net(frame()))


def test_a_saved_hypernetwork_gives_the_same_scores(networks, net):
    other = Hypernet(HypernetConfig(), *networks("resnet18")).double()
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(frame()), net(frame()))


@pytest.mark.parametrize("architecture", ["resnet50", "resnext50_32x4d"])
def test_bottleneck_networks_have_scores_too(networks, architecture):
    network, groups = networks(architecture)
    scores = Hypernet(HypernetConfig(), network, groups, standardise(group_l1(network, groups, 32)))(frame().float())
    assert scores.shape == (groups.total,) and torch.isfinite(scores).all()
