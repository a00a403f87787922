import copy

import pytest
import torch
from torch import nn

from pass_transfer.errors import BackboneError
from pass_transfer.networks import find_groups

# By hand: a residual stream is named after the convolution of it that runs first, which is
# the stem, or conv2 of the stage's first block; each block's conv1 is private.
RESNET18 = {
    "conv1": 64,
    "layer1.0.conv1": 64,
    "layer1.1.conv1": 64,
    "layer2.0.conv1": 128,
    "layer2.0.conv2": 128,
    "layer2.1.conv1": 128,
    "layer3.0.conv1": 256,
    "layer3.0.conv2": 256,
    "layer3.1.conv1": 256,
    "layer4.0.conv1": 512,
    "layer4.0.conv2": 512,
    "layer4.1.conv1": 512,
}
BLOCKS = {"resnet50": (3, 4, 6, 3), "resnext50_32x4d": (3, 4, 6, 3)}


def convolutions(network: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}


def test_resnet18_has_its_four_streams_and_eight_private_groups(groups):
    assert {name: group.width for name, group in groups.items()} == RESNET18
    assert groups.total == 2880


def test_a_residual_stream_is_one_group_with_all_its_writers_and_readers(groups):
    stream = groups["layer2.0.conv2"]
    assert set(stream.writes) == {
        "layer2.0.conv2",
        "layer2.0.downsample.0",
        "layer2.1.conv2",
        "layer2.0.bn2",
        "layer2.0.downsample.1",
        "layer2.1.bn2",
    }
    assert list(stream.reads) == ["layer2.1.conv1", "layer3.0.conv1", "layer3.0.downsample.0"]


def test_the_last_stream_is_read_by_the_classifier_and_the_first_starts_at_the_stem(groups):
    assert "fc" in groups["layer4.0.conv2"].reads
    assert set(groups["conv1"].writes) == {
        "conv1",
        "layer1.0.conv2",
        "layer1.1.conv2",
        "bn1",
        "layer1.0.bn2",
        "layer1.1.bn2",
    }


@pytest.mark.parametrize("architecture", ["resnet50", "resnext50_32x4d"])
def test_bottleneck_networks_have_a_group_for_the_stem_and_for_each_stream(networks, architecture):
    groups = networks(architecture)[1]
    streams = {
        "conv1": 64,
        "layer1.0.conv3": 256,
        "layer2.0.conv3": 512,
        "layer3.0.conv3": 1024,
        "layer4.0.conv3": 2048,
    }
    assert {name: groups[name].width for name in streams} == streams
    for stage, blocks in enumerate(BLOCKS[architecture], 1):
        written = {
            n
            for n in groups[f"layer{stage}.0.conv3"].writes
            if "bn" not in n and n != f"layer{stage}.0.downsample.1"
        }
        assert written == {f"layer{stage}.{b}.conv3" for b in range(blocks)} | {
            f"layer{stage}.0.downsample.0"
        }


def test_resnet50_has_two_private_groups_a_block(networks):
    groups = networks("resnet50")[1]
    private = {
        f"layer{s}.{b}.conv{c}": 64 * 2 ** (s - 1)
        for s, n in enumerate(BLOCKS["resnet50"], 1)
        for b in range(n)
        for c in (1, 2)
    }
    assert {
        n: g.width for n, g in groups.items() if not n.endswith("conv3") and n != "conv1"
    } == private


def test_a_grouped_convolution_moves_whole_groups_of_its_channels(networks):
    groups = networks("resnext50_32x4d")[1]
    private = {
        f"layer{s}.{b}.conv1": 32
        for s, n in enumerate(BLOCKS["resnext50_32x4d"], 1)
        for b in range(n)
    }
    assert {
        n: g.width for n, g in groups.items() if not n.endswith("conv3") and n != "conv1"
    } == private
    block = groups["layer2.0.conv1"]
    eight = [unit for unit in range(32) for _ in range(8)]
    assert {n: u.tolist() for n, u in block.writes.items()} == dict.fromkeys(
        ["layer2.0.conv1", "layer2.0.conv2", "layer2.0.bn1", "layer2.0.bn2"], eight
    )
    assert {n: u.tolist() for n, u in block.reads.items()} == dict.fromkeys(
        ["layer2.0.conv2", "layer2.0.conv3"], eight
    )


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_every_channel_belongs_to_exactly_one_group(networks, architecture):
    network, groups = networks(architecture)
    for name, layer in convolutions(network).items():
        writers = [g for g in groups.values() if name in g.writes]
        readers = [g for g in groups.values() if name in g.reads]
        assert len(writers) == 1 and len(writers[0].writes[name]) == layer.out_channels
        assert sorted(set(writers[0].writes[name].tolist())) == list(range(writers[0].width))
        assert len(readers) == (name != "conv1")
        assert all(len(g.reads[name]) == layer.in_channels for g in readers)


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_steps_are_the_convolutions_in_forward_order_without_shortcuts(networks, architecture):
    network, groups = networks(architecture)
    # torchvision defines its convolutions in the order in which they run, but for the shortcuts
    assert list(groups.steps) == [n for n in convolutions(network) if "downsample" not in n]
    assert list(groups) == [n for n in groups.steps if n in groups]


def test_independent_coupling_is_one_group_for_each_convolution(networks):
    network = networks("resnet18")[0]
    groups = find_groups(network, 32, "independent")
    layers = {n: m for n, m in convolutions(network).items() if "downsample" not in n}
    assert {n: (g.width, list(g.writes)) for n, g in groups.items()} == {
        n: (m.out_channels, [n]) for n, m in layers.items()
    }
    readers = [r for g in groups.values() for r in g.reads]
    assert sorted(readers) == sorted([*(n for n in convolutions(network) if n != "conv1"), "fc"])
    assert list(groups["layer1.0.conv2"].reads) == ["layer1.1.conv1"]


def test_split_and_join_are_inverse(groups):
    flat = torch.arange(groups.total)
    parts = groups.split(flat)
    assert {n: len(p) for n, p in parts.items()} == RESNET18
    assert parts["layer1.0.conv1"][0] == 64
    assert torch.equal(groups.join(dict(reversed(parts.items()))), flat)
    assert groups.offsets.tolist()[:3] == [0, 64, 128] and groups.offsets[-1] == 2880


def test_groups_do_not_depend_on_the_image_size(networks, groups):
    other = find_groups(networks("resnet18")[0], 64)
    assert {n: (list(g.writes), list(g.reads)) for n, g in other.items()} == {
        n: (list(g.writes), list(g.reads)) for n, g in groups.items()
    }


def test_finding_groups_leaves_the_network_as_it_was(resnet18):
    resnet18.train()
    resnet18.layer1.eval()
    resnet18.fc.requires_grad_(False)
    before = copy.deepcopy(resnet18.state_dict())
    modes = {n: m.training for n, m in resnet18.named_modules()}
    find_groups(resnet18, 32)
    assert {n: m.training for n, m in resnet18.named_modules()} == modes
    assert {n for n, p in resnet18.named_parameters() if not p.requires_grad} == {
        "fc.weight",
        "fc.bias",
    }
    assert all(torch.equal(t, before[n]) for n, t in resnet18.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in resnet18.modules())


def test_unknown_coupling_is_refused(resnet18):
    with pytest.raises(BackboneError, match="loose"):
        find_groups(resnet18, 32, "loose")


def test_a_network_without_removable_channels_is_refused():
    with pytest.raises(BackboneError):
        find_groups(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 32)
