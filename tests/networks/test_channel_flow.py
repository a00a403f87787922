"""Channels followed through small networks, each with one thing in it; groups known by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import linear, normalize, pixel_shuffle, scaled_dot_product_attention

from pass_transfer.errors import BackboneError
from pass_transfer.masking import masked
from pass_transfer.networks import (
    BackboneSpec,
    CostTable,
    build_backbone,
    count_macs,
    count_parameters,
    find_groups,
    named_layers,
)
from pass_transfer.networks.dependency_graph import dependency_groups, reads_channels
from pass_transfer.networks.removal import remove_channels

SIDE = 8
TORCH_PRUNING_KNOWS = [
    "resnet18",
    "vgg11",
    "mobilenet_v2",
    "efficientnet_b0",
]  # it cuts grouped convolutions in another way


class Net(nn.Module):
    """Layers by name, and what is done between them."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


def conv(inputs, outputs, side=1, **more):
    return nn.Conv2d(inputs, outputs, side, padding=side // 2, **more)


def classified(self, x):
    return self.head(x.mean((2, 3)))


def concatenated(self, x):
    return classified(self, torch.cat([self.a(x), torch.relu(self.b(x))], 1))


def added(self, x):
    return classified(self, self.a(x) + self.b(x))


def shuffled(self, x):
    """Every second channel goes on, the others are convolved."""
    x = self.a(x)
    x = x.view(len(x), 2, 4, SIDE, SIDE).transpose(1, 2).flatten(1, 2)
    kept, changed = x.chunk(2, 1)
    return classified(self, torch.cat([kept, self.b(changed)], 1))


def sliced(self, x):
    x = self.a(x)
    return classified(self, torch.cat([x[:, :3], self.b(x[:, 3:])], 1))


def excited(self, x):
    x = self.a(x)
    gate = torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))
    return classified(self, x * gate)


def in_groups(self, x):
    return classified(self, torch.relu(self.norm(self.a(x))))


def in_groups_then_more(self, x):
    return classified(self, torch.relu(self.b(self.norm(self.a(x)))))


def normalised_hidden(self, x):
    x = self.a(x).flatten(2).transpose(1, 2)
    return self.head(self.norm(torch.relu(self.hidden(x))).mean(1))


def called_twice(self, x):
    x = self.a(x)
    return classified(self, torch.relu(self.b(torch.relu(self.b(x)))))


def on_two_heads(self, x):
    one, two = self.a(x).chunk(2, 1)
    return classified(self, self.b(one) + self.b(two))


def shuffled_into_pixels(self, x):
    return classified(self, self.b(pixel_shuffle(self.a(x), 2)))


def reduced(self, x):
    return classified(self, self.b(self.a(x).mean(1, keepdim=True)))


def efficiently_attended(self, x):
    x = self.a(x)
    gate = self.along(x.mean((2, 3))[:, None]).sigmoid()
    return classified(self, self.b(x * gate[:, 0, :, None, None]))


def scaled(self, x):
    return classified(self, self.a(x) * self.scale + self.shift[None, :, None, None])


def in_windows(self, x):
    x = torch.roll(self.a(x), (1, 1), (2, 3)).permute(0, 2, 3, 1)
    x = x.view(len(x), 2, 4, 2, 4, -1).transpose(2, 3).reshape(len(x) * 4, 16, -1)
    x = torch.relu(self.b(x)).view(-1, 2, 2, 4, 4, 6).transpose(2, 3).flatten(3).flatten(1, 2)
    return self.head(x.view(len(x), -1, 6).mean(1))


def windows_by_their_size(self, x):
    x = torch.roll(self.a(x), (1, 1), (2, 3)).permute(0, 2, 3, 1)
    x = x.view(len(x), 2, 4, 2, 4, -1).transpose(2, 3).reshape(len(x) * 4, 16, -1)
    return self.head(torch.relu(self.b(x)).view(-1, 64, self.b.out_features).mean(1))


def sorted_by_value(self, x):
    return classified(self, self.b(self.a(x).sort(1).values))


def scaled_by_one_number(self, x):
    return classified(self, self.b(self.scale * self.a(x) + self.shift))


def written_into(self, x):
    made = torch.zeros(len(x), 8, SIDE, SIDE, dtype=x.dtype)
    found = self.a(x)
    made[:, :] = found
    return classified(self, self.b(made) + self.c(found))


def written_into_a_part(self, x):
    made = self.a(x)
    made[:, :, 2:] = self.b(x)[:, :, 2:]
    return classified(self, torch.relu(made))


class Cosine(nn.Linear):
    """Compares directions: an input that is removed would change the others' weights."""

    def forward(self, x):
        return linear(normalize(x, dim=-1), normalize(self.weight, dim=-1), self.bias)


class NormOfMaps(nn.LayerNorm):
    """Normalises over axis 1, unlike its base."""

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Table(nn.Module):
    """Adds numbers that are no parameters, one for each channel."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.rand(8, 1, 1))

    def forward(self, x):
        return x + self.table.to(x.dtype)


def compared(self, x):
    return self.head(self.cosine(self.b(self.a(x)).mean((2, 3))))


def flattened(self, x):
    return self.head(torch.relu(self.a(x)).flatten(1))


def split_gate(self, x):
    one, two = self.a(x).chunk(2, 1)
    return classified(self, one * torch.sigmoid(two))


def rolled_channels(self, x):
    return classified(self, self.b(self.a(x).roll(1, 1)))


def each_channel_by_itself(self, x):
    return classified(self, self.b(self.depth(self.a(x))))


class Attention(nn.Module):
    """Attention whose queries and keys are normalised; its heads' number is fixed or counted."""

    def __init__(self, counted):
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.q_norm, self.k_norm = nn.LayerNorm(4), nn.LayerNorm(4)
        self.counted = counted

    def forward(self, x):
        heads = -1 if self.counted else 2
        qkv = self.qkv(x).view(len(x), x.shape[1], 3, heads, 4).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        made = scaled_dot_product_attention(self.q_norm(query), self.k_norm(key), value)
        return self.proj(made.transpose(1, 2).flatten(2))


def attended(self, x):
    x = self.a(x).flatten(2).transpose(1, 2)
    return self.head((x + self.attention(x)).mean(1))


HEAD8, HEAD6 = {"head": nn.Linear(8, 5)}, {"head": nn.Linear(6, 5)}
A8 = {"a": conv(3, 8)}

# forward, layers, and by hand: for each group how many units, and what is in it.
FOLLOWED = {
    "concatenation": (
        concatenated,
        {"a": conv(3, 4), "b": conv(3, 2)} | HEAD6,
        {"a": (4, "a", "head"), "b": (2, "b", "head")},
    ),
    "addition": (added, A8 | {"b": conv(3, 8)} | HEAD8, {"a": (8, "a b", "head")}),
    "squeeze-excitation": (
        excited,
        A8 | {"down": conv(8, 2), "up": conv(2, 8)} | HEAD8,
        {"a": (8, "a up", "down head"), "down": (2, "down", "up")},
    ),
    "normalisation in groups": (
        in_groups,
        A8 | {"norm": nn.GroupNorm(4, 8)} | HEAD8,
        {"a": (4, "a norm", "head")},
    ),
    "a layer called twice": (
        called_twice,
        A8 | {"b": conv(8, 8)} | HEAD8,
        {"a": (8, "a b", "b head")},
    ),
    "a layer on two parts": (
        on_two_heads,
        A8 | {"b": conv(4, 6)} | HEAD6,
        {"b": (6, "b", "head")},
    ),
    "pixel shuffle": (
        shuffled_into_pixels,
        {"a": conv(3, 16), "b": conv(4, 6)} | HEAD6,
        {"b": (6, "b", "head")},
    ),
    "a reduction": (reduced, A8 | {"b": conv(1, 6)} | HEAD6, {"b": (6, "b", "head")}),
    "a convolution over channels": (
        efficiently_attended,
        A8 | {"along": nn.Conv1d(1, 1, 3, padding=1), "b": conv(8, 6)} | HEAD6,
        {"b": (6, "b", "head")},
    ),
    "parameters of channels": (
        scaled,
        A8
        | {"scale": nn.Parameter(torch.rand(8, 1, 1)), "shift": nn.Parameter(torch.rand(8))}
        | HEAD8,
        {"a": (8, "a", "head")},
    ),
    "one number for all channels": (
        scaled_by_one_number,
        A8
        | {"scale": nn.Parameter(torch.rand(1)), "shift": nn.Parameter(torch.rand(()))}
        | {"b": conv(8, 6)}
        | HEAD6,
        {"a": (8, "a", "b"), "b": (6, "b", "head")},
    ),
    "a tensor that is written into": (
        written_into,
        A8 | {"b": conv(8, 6), "c": conv(8, 6)} | HEAD6,
        {"b": (6, "b c", "head")},
    ),
    "a part that is written into": (
        written_into_a_part,
        A8 | {"b": conv(3, 8)} | HEAD8,
        {"a": (8, "a b", "head")},
    ),
    "a linear layer that computes something else": (
        compared,
        A8 | {"b": conv(8, 6), "cosine": Cosine(6, 6)} | HEAD6,
        {"a": (8, "a", "b")},
    ),
    "a normalisation over another axis": (
        in_groups_then_more,
        A8 | {"norm": NormOfMaps(8), "b": conv(8, 6)} | HEAD6,
        {"b": (6, "b", "head")},
    ),
    "numbers for each channel": (
        in_groups_then_more,
        A8 | {"norm": Table(), "b": conv(8, 6)} | HEAD6,
        {"b": (6, "b", "head")},
    ),
    "windows": (
        windows_by_their_size,
        A8 | {"b": nn.Linear(8, 6)} | HEAD6,
        {"a": (8, "a", "b"), "b": (6, "b", "head")},
    ),
    "windows of a known width": (
        in_windows,
        A8 | {"b": nn.Linear(8, 6)} | HEAD6,
        {"a": (8, "a", "b")},
    ),
    "a value that is sorted": (
        sorted_by_value,
        A8 | {"b": conv(8, 6)} | HEAD6,
        {"b": (6, "b", "head")},
    ),
    "flattening": (
        flattened,
        A8 | {"head": nn.Linear(8 * SIDE * SIDE, 5)},
        {"a": (8, "a", "head")},
    ),
    "a depthwise convolution": (
        each_channel_by_itself,
        A8 | {"depth": conv(8, 8, 3, groups=8), "b": conv(8, 6)} | HEAD6,
        {"a": (8, "a depth", "b"), "b": (6, "b", "head")},
    ),
    "a shuffle": (shuffled, A8 | {"b": conv(4, 4)} | HEAD8, {"b": (4, "b", "head")}),
    "slices": (sliced, A8 | {"b": conv(5, 5)} | HEAD8, {"b": (5, "b", "head")}),
    "hidden units that are normalised": (
        normalised_hidden,
        A8 | {"hidden": nn.Linear(8, 6), "norm": nn.LayerNorm(6)} | HEAD6,
        {"a": (8, "a", "hidden")},
    ),
    "channels that are rolled": (
        rolled_channels,
        A8 | {"b": conv(8, 6)} | HEAD6,
        {"b": (6, "b", "head")},
    ),
    "attention that counts its heads": (
        attended,
        A8 | {"attention": Attention(True)} | HEAD8,
        {"a": (8, "a attention.proj", "attention.qkv head")},
    ),
}

# What is kept whole besides the outputs, and what the reason names.
WHOLE = {
    "a layer on two parts": ("a", "takes them apart"),
    "pixel shuffle": ("a", "mixes channels by pixel_shuffle"),
    "a reduction": ("a", "depend on one another"),
    "a convolution over channels": ("a", "along (Conv1d) mixes channels by convolution"),
    "a tensor that is written into": ("a", "writes into a tensor by copy_"),
    "a linear layer that computes something else": ("b", "cosine (Cosine) mixes channels"),
    "a normalisation over another axis": ("a", "depend on one another"),
    "numbers for each channel": ("a", "norm (Table) joins them with a tensor that stays"),
    "windows of a known width": ("b", "takes them apart"),
    "a value that is sorted": ("a", "mixes channels by sort"),
    "a shuffle": ("a", "takes them apart"),
    "slices": ("a", "takes them apart"),
    "hidden units that are normalised": ("hidden", "norm (LayerNorm) normalises over them"),
    "channels that are rolled": ("a", "takes them apart"),
    "attention that counts its heads": ("attention.qkv", "attention (Attention) takes them apart"),
}


def net(name):
    """A network of the table, with random weights and its normalisations uneven."""
    torch.manual_seed(0)
    forward, layers, _ = FOLLOWED[name]
    made = Net(forward, **copy.deepcopy(layers)).eval()
    for parameter in made.parameters():
        nn.init.uniform_(parameter, -1, 1)
    return made


@pytest.mark.parametrize("name", FOLLOWED)
def test_groups_are_those_that_are_known_by_hand(name):
    groups = find_groups(net(name), SIDE)
    found = {
        first: (group.width, " ".join(group.writes), " ".join(group.reads))
        for first, group in groups.items()
    }
    assert found == FOLLOWED[name][2]


@pytest.mark.parametrize("name", FOLLOWED)
def test_what_cannot_be_followed_is_kept_whole_and_the_reason_names_where(name):
    whole = dict(find_groups(net(name), SIDE).kept_whole)
    assert "head" not in whole  # whose outputs are the network's own
    layer, why = WHOLE.get(name, (None, ""))
    assert list(whole) == [layer] * (layer is not None)
    assert why in whole.get(layer, "")


@pytest.mark.parametrize("name", FOLLOWED)
def test_masked_removed_and_foreseen_are_the_same(name, random_masks):
    network = net(name).double()
    groups = find_groups(network, SIDE)
    table = CostTable(network, groups, SIDE)
    images = torch.randn(2, 3, SIDE, SIDE).double()
    for number in range(5):
        masks = random_masks(groups, number)
        small = remove_channels(network, masks, groups)
        with torch.no_grad():
            with masked(network, groups, masks):
                expected = network(images)
            torch.testing.assert_close(small(images), expected, rtol=1e-10, atol=1e-10)
        assert table.macs(masks.kept) == count_macs(small, SIDE)
        assert table.parameters(masks.kept) == count_parameters(small)


def test_tensors_of_channels_that_are_in_no_layer_are_cut_with_them(random_masks):
    network = net("parameters of channels")
    group = find_groups(network, SIDE)["a"]
    assert {n: (axis, units.tolist()) for n, (axis, units) in group.tensors.items()} == {
        "scale": (0, list(range(8))),
        "shift": (0, list(range(8))),
    }


def test_units_behind_a_flattening_are_maps():
    group = find_groups(net("flattening"), SIDE)["a"]
    assert group.places == {"head": SIDE * SIDE}
    assert group.reads["head"].view(8, -1).tolist() == [[n] * SIDE * SIDE for n in range(8)]


def test_a_tensor_that_serves_other_channels_too_keeps_them_whole():
    def both(self, x):
        return classified(self, torch.cat([self.a(x), self.b(x)], 1) + self.shift[:, None, None])

    layers = {"a": conv(3, 4), "b": conv(3, 2), "shift": nn.Parameter(torch.rand(6))}
    with pytest.raises(BackboneError, match="shift has others among them"):
        find_groups(Net(both, **layers, head=nn.Linear(6, 5)), SIDE)


@pytest.mark.parametrize("architecture", TORCH_PRUNING_KNOWS)
def test_groups_are_those_of_torch_pruning(architecture):
    network = build_backbone(BackboneSpec(architecture, 10, 32)).eval()
    makers = {n for n, _, _ in named_layers(network, lambda kind: kind.makes_channels)}
    name_of = {module: name for name, module in network.named_modules()}
    expected: set[frozenset[str]] = set()
    for group in dependency_groups(network, 32):
        writes = {name_of.get(i.dep.target.module) for i in group if not reads_channels(i)}
        expected.add(frozenset(writes & makers))
    found = {frozenset(set(g.writes) & makers) for g in find_groups(network, 32).values()}
    assert found == expected


def test_a_layer_whose_weight_is_used_elsewhere_too_is_kept_whole():
    def both(self, x):
        x = self.b(self.a(x)).mean((2, 3))
        weight = self.b.weight.flatten(1)
        return self.head(x + x.detach().sum() * 0 + weight.sum(1))

    layers = {"a": conv(3, 8), "b": conv(8, 6), "head": nn.Linear(6, 5)}
    with pytest.raises(BackboneError, match=r"\(Net\) computes with tensors of b"):
        find_groups(Net(both, **layers), SIDE)


@pytest.mark.parametrize(
    "norm",
    [
        nn.LayerNorm([8, SIDE, SIDE]),
        nn.GroupNorm(4, 8, affine=False),
        nn.InstanceNorm2d(8),
        nn.BatchNorm2d(8, affine=False),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_a_normalisation_that_cannot_be_cut_keeps_only_its_own_channels(norm):
    def forward(self, x):
        return classified(self, self.b(torch.relu(self.norm(self.a(x)))))

    network = Net(forward, a=conv(3, 8), norm=norm, b=conv(8, 6), head=nn.Linear(6, 4)).eval()
    groups = find_groups(network, SIDE)
    assert groups["b"].width == 6
    masks = {name: torch.arange(group.width) % 2 == 1 for name, group in groups.items()}
    image = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad(), masked(network, groups, masks):
        expected = network(image)
    small = remove_channels(network, masks, groups)
    assert torch.allclose(small(image), expected, atol=1e-6)
