"""Layer kinds: what a room learns from the table, and that a new kind is one entry of it."""

import ast
import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from pass_transfer.errors import BackboneError
from pass_transfer.masking import batch_statistics, masked
from pass_transfer.masking.plan import plan_of, why_unplanned
from pass_transfer.networks import (
    CostTable,
    LayerKind,
    classifier_name,
    count_macs,
    count_parameters,
    find_groups,
    kind_of,
    layer_kind,
    register_layer_kind,
)
from pass_transfer.networks.layers import LayerCost, unregister_layer_kind
from pass_transfer.networks.layers.convolution import Convolution
from pass_transfer.networks.removal import remove_channels, resize_like

ROOT = Path(__file__).parents[2] / "pass_transfer"
ASKING = [ROOT / "networks" / "layers"]
NO_LAYERS = {"Module", "Parameter"}


def layer_classes(tree: ast.AST) -> set[str]:
    """Names that a module imported from torch.nn, other than nn itself."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch.nn"):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def asked_for(tree: ast.AST) -> list[str]:
    """Layer classes that a module compares something's class with."""
    imported, found = layer_classes(tree), []
    for node in ast.walk(tree):
        compared = []
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
            "isinstance",
            "issubclass",
        ):
            compared = [node.args[1]]
        elif isinstance(node, ast.Compare):
            compared = node.comparators
        for part in (inner for outer in compared for inner in ast.walk(outer)):
            if isinstance(part, ast.Attribute) and ast.unparse(part.value).endswith("nn"):
                found.append(part.attr)
            elif isinstance(part, ast.Name) and part.id in imported:
                found.append(part.id)
    return [name for name in found if name not in NO_LAYERS]


def test_no_room_but_the_table_asks_for_a_layers_class():
    for path in sorted(ROOT.rglob("*.py")):
        if not any(path == asking or asking in path.parents for asking in ASKING):
            found = asked_for(ast.parse(path.read_text(encoding="utf-8")))
            assert not found, f"{path.relative_to(ROOT)} asks for {found}; ask layer_kind()"


def test_the_search_for_such_questions_finds_them():
    source = "from torch.nn import Linear\nisinstance(x, (nn.Conv2d, Linear))\ntype(x) is nn.ReLU"
    assert sorted(asked_for(ast.parse(source))) == ["Conv2d", "Linear", "ReLU"]


@pytest.mark.parametrize(
    "layer, facts",
    [
        (nn.Conv2d(6, 8, 3), ("makes_channels", "takes_channels", "mixes_channels")),
        (nn.Conv2d(6, 6, 3, groups=2), ("makes_channels", "takes_channels")),
        (nn.Conv2d(6, 6, 3, groups=6), ("makes_channels", "takes_channels")),
        (nn.Linear(6, 8), ("makes_channels", "takes_channels", "mixes_channels", "can_classify")),
        (nn.BatchNorm2d(6), ("holds_channels", "running_statistics")),
        (nn.Hardswish(), ()),
        (nn.Flatten(), ()),
    ],
)
def test_the_table_says_what_a_layer_does(layer, facts):
    kind = kind_of(layer)
    asked = (
        "makes_channels",
        "takes_channels",
        "mixes_channels",
        "holds_channels",
        "running_statistics",
        "can_classify",
    )
    assert tuple(name for name in asked if getattr(kind, name)) == facts


@pytest.mark.parametrize(
    "layer, inputs, outputs",
    [
        (nn.Conv2d(6, 8, 3), 6, 8),
        (nn.Conv2d(6, 12, 3, groups=3), 6, 12),
        (nn.Linear(6, 8), 6, 8),
        (nn.BatchNorm2d(6), 6, 6),
    ],
)
def test_the_table_says_how_wide_a_layer_is(layer, inputs, outputs):
    kind = kind_of(layer)
    assert (kind.input_channels(layer), kind.output_channels(layer)) == (inputs, outputs)


def test_a_layer_without_a_kind_is_named():
    assert layer_kind(nn.Sequential()) is None
    with pytest.raises(BackboneError, match="Bilinear"):
        kind_of(nn.Bilinear(2, 2, 2))


@pytest.mark.parametrize("layer", [nn.Conv2d(6, 12, 3, groups=3), nn.Linear(6, 12)])
def test_a_layer_gets_the_sizes_of_saved_tensors(layer):
    kind, fresh = kind_of(layer), copy.deepcopy(layer)
    kind.keep_outputs(layer, torch.tensor([4, 5, 6, 7]))
    kind.keep_inputs(layer, torch.tensor([1, 3]))
    kind.resize(fresh, {n: t.shape for n, t in layer.state_dict().items()})
    assert str(fresh) == str(layer)
    assert {n: t.shape for n, t in fresh.state_dict().items()} == {
        n: t.shape for n, t in layer.state_dict().items()
    }


# New kinds, each with the layer that it is for.


class Affine(nn.Module):
    """Maps (B, C, H, W) with a factor and a summand for each channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels) + 0.5)
        self.bias = nn.Parameter(torch.randn(channels))

    def forward(self, x):
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class AffineKind(LayerKind[Affine]):
    """A layer that passes channels on, and that Torch-Pruning does not know."""

    types = (Affine,)
    holds_channels = True
    known_to_torch_pruning = False

    def output_channels(self, module):
        return len(module.weight)

    def cost(self, module):
        return LayerCost(0, 2, 0)


class Gained(nn.Conv2d):
    """A convolution with a gain for each output."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.gain = nn.Parameter(torch.rand(self.out_channels) + 0.5)

    def forward(self, x):
        return super().forward(x) * self.gain[:, None, None]


class GainedKind(Convolution):
    """A convolution with one parameter an output more."""

    types = (Gained,)

    def cost(self, module):
        plain = super().cost(module)
        return LayerCost(plain.joining, plain.each_output + 1, plain.inputs)


class Mixing(nn.Module):
    """Every place's channels times a matrix (O, I): a layer with channels of its own."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)

    def forward(self, x):
        return torch.einsum("oc,bchw->bohw", self.weight, x)


class MixingKind(LayerKind[Mixing]):
    """A layer that makes channels, and that Torch-Pruning does not know."""

    types = (Mixing,)
    makes_channels = takes_channels = mixes_channels = True
    known_to_torch_pruning = False

    def output_channels(self, module):
        return module.weight.shape[0]

    def input_channels(self, module):
        return module.weight.shape[1]

    def cost(self, module):
        return LayerCost(1, 0, module.weight.shape[1])

    def weight_by_input(self, module):
        return module.weight.detach()[:, :, None]


NEW = {
    "affine": (AffineKind(), lambda: nn.Sequential(nn.Conv2d(8, 16, 3), Affine(16))),
    "gained": (GainedKind(), lambda: Gained(8, 16, 3)),
    "mixing": (MixingKind(), lambda: Mixing(8, 16)),
}


@pytest.fixture(params=NEW)
def grown(request):
    """A network with a layer of a new kind in its middle, while that kind is registered."""
    kind, layer = NEW[request.param]
    register_layer_kind(kind)
    torch.manual_seed(0)
    yield nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        layer(),
        nn.ReLU(),
        nn.Conv2d(16, 12, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 10),
    ).eval()
    unregister_layer_kind(kind)


def test_a_new_kind_is_grouped_cut_counted_and_saved_by_one_entry(grown, random_masks):
    groups = find_groups(grown, 32)
    assert sorted(group.width for group in groups.values()) == [8, 12, 16]
    table = CostTable(grown, groups, 32)
    assert table.dense == count_macs(grown, 32)
    assert table.dense_parameters == count_parameters(grown)
    for number in range(5):
        masks = random_masks(groups, number)
        small = remove_channels(grown, masks, groups)
        assert table.macs(masks.kept) == count_macs(small, 32)
        assert table.parameters(masks.kept) == count_parameters(small)
        rebuilt = copy.deepcopy(grown)
        resize_like(rebuilt, {n: t.shape for n, t in small.state_dict().items()})
        rebuilt.load_state_dict(small.state_dict(), strict=True)
        images = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            with masked(grown, groups, masks):
                expected = grown(images)
            for network in (small, rebuilt):
                difference = (network(images) - expected).abs().max()
                assert difference <= 1e-5 * expected.abs().max()


def test_a_new_kind_is_searched_with_hooks_and_the_plan_says_why(grown, random_masks):
    groups = find_groups(grown, 32)
    assert plan_of(grown, groups) is None
    why = why_unplanned(grown, groups)
    assert "there is no step for 3" in why or "3 computes in its own way" in why
    masks = {n: m.float().requires_grad_() for n, m in random_masks(groups, 3, 0.5).items()}
    with batch_statistics(grown), masked(grown, groups, masks):
        grown(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert all(mask.grad is not None for mask in masks.values())


def test_the_classifier_is_the_last_layer_that_can_be_one(grown):
    assert classifier_name(grown) == "9"
