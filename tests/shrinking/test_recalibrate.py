import copy

import numpy as np
import pytest
import torch
from torch import nn

from pass_transfer.networks.network import Network
from pass_transfer.shrinking.recalibrate import recalibrate
from pass_transfer.tasks import Split
from pass_transfer.tasks.readers import CachedImages
from pass_transfer.training import to_images

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.2, 0.3)


def split_of(count: int) -> Split:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), np.uint8)
    return Split(CachedImages(pixels), np.arange(count), np.zeros(count, np.int64))


def activations(network: Network, split: Split, cpu) -> torch.Tensor:
    """What the first BatchNorm sees of all images, channel by channel."""
    pixels, _ = split.__getitems__(range(len(split)))
    images = to_images(pixels, cpu.device)
    normalised = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    return (
        nn.functional.conv2d(normalised, network.backbone.conv1.weight, stride=2, padding=1)
        .transpose(0, 1)
        .flatten(1)
        .detach()
    )


def test_statistics_become_those_of_the_images(little, cpu):
    network, split = Network(little, MEAN, STD), split_of(200)
    expected = activations(network, split, cpu)
    recalibrate(network, split, cpu)
    torch.testing.assert_close(little.bn1.running_mean, expected.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(little.bn1.running_var, expected.var(1), rtol=1e-4, atol=1e-5)


def test_several_batches_are_averaged(little, cpu):
    network, split = Network(little, MEAN, STD), split_of(512)
    expected = activations(network, split, cpu)
    recalibrate(network, split, cpu)
    torch.testing.assert_close(little.bn1.running_mean, expected.mean(1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(little.bn1.running_var, expected.var(1), rtol=1e-2, atol=1e-3)


def test_a_recalibrated_network_normalises_these_images(little, cpu):
    network, split = Network(little, MEAN, STD), split_of(200)
    recalibrate(network, split, cpu)
    out = []
    little.bn2.register_forward_hook(lambda _, __, y: out.append(y))
    with torch.no_grad():
        network(to_images(split.__getitems__(range(200))[0], cpu.device))
    flat = out[0].transpose(0, 1).flatten(1)
    torch.testing.assert_close(flat.mean(1), torch.zeros(16), atol=1e-3, rtol=0)
    torch.testing.assert_close(flat.std(1), torch.ones(16), atol=1e-2, rtol=0)


def test_only_statistics_change_and_the_network_ends_in_eval_mode(little, cpu):
    network = Network(little, MEAN, STD).train()
    before = copy.deepcopy(network.state_dict())
    recalibrate(network, split_of(50), cpu)
    changed = {n for n, t in network.state_dict().items() if not torch.equal(t, before[n])}
    assert {n.rsplit(".", 1)[1] for n in changed} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }
    assert not any(m.training for m in network.modules())
    assert [m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)] == [0.1, 0.1]


def test_what_was_stored_before_does_not_matter(little, cpu):
    network, other, split = (
        Network(little, MEAN, STD),
        Network(copy.deepcopy(little), MEAN, STD),
        split_of(50),
    )
    nn.init.constant_(other.backbone.bn1.running_mean, 100)
    recalibrate(network, split, cpu)
    recalibrate(other, split, cpu)
    assert all(torch.equal(t, other.state_dict()[n]) for n, t in network.state_dict().items())


@pytest.mark.parametrize("images, seen", [(300, 512), (10_000, 1024)])
def test_no_more_images_than_asked_for_are_read_but_for_the_last_batch(little, cpu, images, seen):
    count = []
    recalibrate(
        little,
        split_of(1030),
        cpu,
        images=images,
        forward=lambda x: count.append(len(x)) or little(x),
    )
    assert sum(count) == seen
