import pytest
import torch

from pass_transfer.networks import find_groups
from pass_transfer.scoring.magnitude import group_l1


@pytest.fixture(scope="module")
def scores(networks):
    return group_l1(*networks("resnet18"))


def test_every_group_has_a_score_for_each_unit_with_mean_one(scores, groups):
    assert {n: len(s) for n, s in scores.items()} == {n: g.width for n, g in groups.items()}
    assert all(s.mean() == pytest.approx(1, abs=1e-5) and (s > 0).all() for s in scores.values())


def test_a_private_group_is_the_mean_over_its_writer_norm_and_reader(scores, networks):
    block = networks("resnet18")[0].layer2[1]
    writer, norm, reader = (
        block.conv1.weight.abs().sum((1, 2, 3)),
        block.bn1.weight.abs(),
        block.conv2.weight.abs().sum((0, 2, 3)),
    )
    expected = (writer + norm + reader).detach() / 3
    torch.testing.assert_close(scores["layer2.1.conv1"], expected / expected.mean())


def test_a_stream_is_the_mean_over_all_its_layers(scores, networks):
    network = networks("resnet18")[0]
    first, second = network.layer4
    rows = [c.weight.abs().sum((1, 2, 3)) for c in (first.conv2, first.downsample[0], second.conv2)]
    norms = [b.weight.abs() for b in (first.bn2, first.downsample[1], second.bn2)]
    columns = [second.conv1.weight.abs().sum((0, 2, 3)), network.fc.weight.abs().sum(0)]
    expected = torch.stack([*rows, *norms, *columns]).mean(0).detach()
    torch.testing.assert_close(scores["layer4.0.conv2"], expected / expected.mean())


def test_a_unit_of_a_grouped_convolution_counts_all_its_channels(networks):
    network, groups = networks("resnext50_32x4d")
    scores = group_l1(network, groups)
    assert {n: len(s) for n, s in scores.items()} == {n: g.width for n, g in groups.items()}
    assert all(
        torch.isfinite(s).all() and s.mean() == pytest.approx(1, abs=1e-5) for s in scores.values()
    )


def test_with_independent_coupling_a_convolution_has_scores_of_its_own(networks):
    network = networks("resnet18")[0]
    scores = group_l1(network, find_groups(network, 32, "independent"))
    for name, reader in (
        ("layer1.0.conv2", network.layer1[1].conv1),
        ("layer1.1.conv1", network.layer1[1].conv2),
    ):
        rows, columns = (
            network.get_submodule(name).weight.abs().sum((1, 2, 3)),
            reader.weight.abs().sum((0, 2, 3)),
        )
        expected = ((rows + columns) / 2).detach()
        torch.testing.assert_close(scores[name], expected / expected.mean())
    assert all(torch.isfinite(values).all() for values in scores.values())
