import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pass_transfer.errors import BackboneError
from pass_transfer.networks import find_groups
from pass_transfer.scoring.forward_selection import forward_selection, order


def explained(moments, chosen):
    """Of all readers' inputs, what least squares from the chosen ones leaves no cost of."""
    total = 0.0
    for covariance, cost in moments:
        sides = covariance[:, chosen]
        total += (
            (cost * (sides @ torch.linalg.solve(covariance[chosen][:, chosen], sides.T)))
            .sum()
            .item()
        )
    return total


@settings(max_examples=30)
@given(st.integers(1, 7), st.integers(1, 3), st.integers(0, 2**31))
def test_every_next_channel_is_the_one_that_explains_most(channels, readers, seed):
    draw = torch.Generator().manual_seed(seed)
    moments = []
    for _ in range(readers):
        root, weight = (
            torch.randn(channels, n, generator=draw, dtype=torch.float64) for n in (channels, 3)
        )
        moments.append(
            (root @ root.T + 0.1 * torch.eye(channels, dtype=torch.float64), weight @ weight.T)
        )
    scores = order(moments, channels)
    assert sorted(scores.tolist()) == list(range(1, channels + 1))
    chosen = []
    for nxt in torch.argsort(scores, descending=True).tolist():
        best = max(
            explained(moments, [*chosen, other]) for other in range(channels) if other not in chosen
        )
        assert explained(moments, [*chosen, nxt]) == pytest.approx(best, rel=1e-6)
        chosen.append(nxt)


def test_channels_that_others_stand_in_for_and_that_nobody_reads_come_last():
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 6, 3, bias=False)
    network = nn.Sequential(
        first, nn.ReLU(), second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    ).requires_grad_(False)
    first.weight[5] = first.weight[2]  # twins: one explains the other
    second.weight[:, 7] = 0  # nobody listens
    groups = find_groups(network, 12)
    samples = [(torch.rand(16, 3, 12, 12), torch.arange(16) % 4, True) for _ in range(3)]
    scores = forward_selection(network, groups, samples, network, torch.Generator().manual_seed(1))
    assert {name: len(values) for name, values in scores.items()} == {
        name: group.width for name, group in groups.items()
    }
    last = set(scores["0"].topk(2, largest=False).indices.tolist())
    assert 7 in last and len(last & {2, 5}) == 1
    assert not second._forward_hooks


def test_channels_without_a_reader_that_can_be_followed_are_refused():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).requires_grad_(False)
    groups = find_groups(network, 12, "independent")
    with pytest.raises(BackboneError, match="0"):
        forward_selection(network, groups, [], network, torch.Generator())
