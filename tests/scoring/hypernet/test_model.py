"""From a prompt to scores: what a hypernetwork hears, reads, keeps and learns."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from pass_transfer.budgets import Budget, CutNetwork
from pass_transfer.prompts import Prompt
from pass_transfer.scoring.hypernet import Hypernet, HypernetConfig
from pass_transfer.scoring.magnitude import group_l1
from pass_transfer.scoring.prior import standardise


@pytest.fixture(scope="module")
def prior(networks):
    return standardise(group_l1(*networks("resnet18")))


@pytest.fixture
def net(networks, prior) -> Hypernet:
    torch.manual_seed(3)
    return Hypernet(HypernetConfig(), *networks("resnet18"), prior).double()


def frame(seed: int = 0, size: int = 32) -> torch.Tensor:
    return 5 * Prompt(size=size, pad=3, seed=seed).frame().detach().double()


def half_of(scores, groups, **how):
    """The masks that keep half of the channels."""
    network = CutNetwork(groups, None, None, 32)
    return Budget(density=0.5, round_to=1, **how).cut(scores, network)


def size_of(net):
    return sum(p.numel() for p in net.parameters())


def test_scores_are_finite_one_for_every_unit_and_the_same_every_time(net, groups):
    scores = net(frame())
    assert scores.shape == (groups.total,) and torch.isfinite(scores).all()
    assert torch.equal(net(frame()), scores)


def test_another_prompt_gives_other_scores_and_other_masks(net, groups):
    one, two = net(frame(1)).detach(), net(frame(2)).detach()
    assert (one - two).std() > 1e-3 * one.std()
    masks = [half_of(groups.split(s), groups) for s in (one, two)]
    assert masks[0].difference(masks[1]) > 0


def test_a_louder_prompt_corrects_more(net):
    prior = net.prior
    heard = [net(factor * frame()).detach() for factor in (0.5, 1, 2, 4)]
    corrections = [(scores - prior).square().mean() for scores in heard]
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
        ranks = values.argsort().argsort(), prior[name].argsort().argsort()
        assert np.corrcoef(*ranks)[0, 1] > 0.95
    masks = half_of(groups.split(scores), groups)
    assert masks.difference(half_of(prior, groups, uniform=True)) < 0.1


def test_without_a_prior_scores_start_near_zero(networks, groups):
    scores = Hypernet(HypernetConfig(prior="none"), *networks("resnet18"))(frame().float())
    assert 0 < scores.abs().max() < 1


def test_at_the_published_width_it_has_about_the_published_number_of_parameters(networks):
    small = Hypernet(HypernetConfig(hidden=64, encoder=(8, 16)), *networks("resnet18"))
    assert 0.30e6 < size_of(small) < 0.34e6  # arXiv 2407.17412: 0.31 M for ResNet-18


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
    prior = standardise(group_l1(network, groups))
    scores = Hypernet(HypernetConfig(), network, groups, prior)(frame().float())
    assert scores.shape == (groups.total,) and torch.isfinite(scores).all()


@pytest.mark.parametrize("core", ["conv", "mlp"])
def test_other_cores_hear_the_prompt_and_are_of_about_the_same_size(networks, prior, groups, core):
    torch.manual_seed(3)
    net = Hypernet(HypernetConfig(core=core), *networks("resnet18"), prior).double()
    assert not torch.allclose(net(frame(1)), net(frame(2)))
    assert torch.equal(net(torch.zeros(3, 32, 32, dtype=torch.float64)), net.prior)
    lstm = Hypernet(HypernetConfig(), *networks("resnet18"), prior)
    assert 0.8 < size_of(net) / size_of(lstm) < 1.25


def test_with_an_mlp_no_layer_hears_of_another_and_with_convolutions_the_next_ones_do(
    networks, prior
):
    def changed(core):
        torch.manual_seed(3)
        net = Hypernet(HypernetConfig(core=core), *networks("resnet18"), prior).double()
        vectors = torch.randn(len(net.groups.steps), net.config.pooled, dtype=torch.float64)
        codes = torch.randn(1 + len(vectors), net.config.hidden, dtype=torch.float64)
        before = net._recur(codes[None], vectors)[0]
        vectors[8] += 1
        moved = (net._recur(codes[None], vectors)[0] - before).abs().sum(1)
        return moved.gt(1e-9).nonzero().flatten().tolist()

    assert changed("mlp") == [8]
    assert changed("conv") == [6, 7, 8, 9, 10]
    assert changed("lstm") == list(range(8, len(networks("resnet18")[1].steps)))


def test_without_the_prompt_all_prompts_are_one_and_scores_still_learn(networks, prior):
    net = Hypernet(HypernetConfig(uses_prompt=False), *networks("resnet18"), prior).double()
    scores = net(frame(1))
    assert torch.equal(scores, net(frame(2))) and not torch.equal(scores, net.prior)
    scores.square().sum().backward()
    assert net.lstm.weight_ih_l0.grad.any()


def test_without_the_weights_another_backbone_changes_nothing(networks, prior):
    backbone, groups = networks("resnet18")
    other = copy.deepcopy(backbone)
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    for reads, same in ((True, False), (False, True)):
        torch.manual_seed(3)
        net = Hypernet(HypernetConfig(reads_weights=reads), backbone, groups, prior).double()
        assert torch.equal(net(frame()), net.reading(other, prior)(frame())) == same
