"""pt.prune: a module in memory, cut by magnitude or for a task."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import pass_transfer as pt
from pass_transfer.errors import BackboneError, UsageError
from pass_transfer.networks import builders, count_macs, register_network

SIDE = 16
SOURCE = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self, classes=5):
        layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, classes))
"""
exec(SOURCE)
CODE = """
import pass_transfer as pt
{source}
try:
    pt.load_pruned({run!r})
except pt.PassTransferError as refusal:
    print(refusal)
pt.register_network("Net", Net)
print(pt.load_pruned({run!r}).spec)
"""  # in a process that does not know the network
EXAMPLE = torch.zeros(1, 3, SIDE, SIDE)


@pytest.fixture(autouse=True)
def forgotten():
    before = set(builders._SOURCES)
    yield
    for name in set(builders._SOURCES) - before:
        del builders._SOURCES[name]


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()  # noqa: F821


@pytest.fixture
def layers(net):
    return nn.Sequential(*net)


def macs(module):
    return count_macs(module.eval(), SIDE)


@pytest.mark.parametrize("method", ["uniform_l1", "group_l1", "group_l2"])
def test_a_module_is_cut_by_magnitude_and_stays_as_it_is(net, method):
    with torch.no_grad():  # half of the first convolution's channels do next to nothing
        net[0].weight[::2] *= 1e-3
        net[2].weight[:, ::2] *= 1e-3
    before, training = copy.deepcopy(net.state_dict()), net.train().training
    small = pt.prune(net, EXAMPLE, macs=0.6, method=method, round_to=1)
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert net.training is training and not small.training
    assert macs(small) <= 0.6 * macs(copy.deepcopy(net)) and small[6].out_features == 5
    kept = small[0].weight
    assert int((kept.abs().amax((1, 2, 3)) > 0.01).sum()) == 8, "the small ones went first"
    assert all(any(torch.equal(row, one) for one in net[0].weight) for row in kept)


def test_for_a_task_it_is_adapted_and_loaded_by_its_name(net, few_photos, tmp_path):
    small = {"macs": 0.5, "round_to": 1, "epochs": 1, "batch_size": 8, "device": "cpu"}
    run, options = tmp_path / "run", small | {"std": (1.0, 1.0, 1.0)}
    result = pt.prune(net, EXAMPLE, task=few_photos, out=run, **options)
    assert result["network"] == "Net" and result["method"] == "selection"
    assert result["macs"] <= 0.5 * result["dense_macs"]
    model = pt.load_pruned(run)
    assert model.spec.classes == 2 and model.spec.std == (1.0, 1.0, 1.0)
    again = pt.prune(net, EXAMPLE, task=few_photos, out=run, resume=True, **options)
    assert again == result
    code = CODE.format(source=SOURCE, run=str(run))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    refusal, spec = done.stdout.splitlines()
    assert "unknown network 'Net'" in refusal and "pt.register_network(NAME, build)" in refusal
    assert spec == str(model.spec), done.stderr


def test_a_name_that_a_builder_has_is_that_builders(net, few_photos, tmp_path):
    register_network("mine", Net)  # noqa: F821
    options = {"epochs": 1, "batch_size": 8, "device": "cpu", "method": "group_l1", "round_to": 1}
    asked = options | {"task": few_photos, "out": tmp_path / "run"}
    pt.prune(net, EXAMPLE, name="mine", **asked)
    assert pt.load_pruned(tmp_path / "run").spec.architecture == "mine"
    wider = nn.Sequential(
        nn.Conv2d(3, 9, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 2)
    )
    for name, words in (("mine", "another network"), ("resnet18", "another network")):
        with pytest.raises(pt.PassTransferError, match=words):
            pt.prune(wider, EXAMPLE, name=name, **asked | {"out": tmp_path / "no"})
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"module": 3}, "module is 3"),
        ({"example": [1]}, "example is a list"),
        ({"example": torch.zeros(1, 1, 8, 8)}, r"example is \(1, 1, 8, 8\)"),
        ({"example": torch.zeros(1, 3, 8, 9)}, r"example is \(1, 3, 8, 9\)"),
        ({"method": "taylor"}, "without a task it is one of uniform_l1"),
        ({"out": "run"}, "out goes with a task"),
        ({"task": "digits"}, "out is missing"),
        ({"epochs": 3}, "no argument 'epochs'"),
        ({"macs": 2.0}, "macs is 2"),
        ({"task": "digits", "out": "run", "method": "prompt"}, "needs a hypernetwork"),
        ({"task": "digits", "out": "run", "mean": 3}, "mean is 3"),
    ],
)
def test_what_cannot_be_is_refused(net, tmp_path, monkeypatch, change, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pt.PassTransferError, match=words):
        pt.prune(**{"module": net, "example": EXAMPLE} | change)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrap", [weight_norm, spectral_norm, parametrizations.weight_norm])
def test_a_weight_that_is_computed_from_others_is_refused(layers, wrap):
    wrap(layers[2])
    with pytest.raises(BackboneError, match="weight of 2 .*is computed from other tensors"):
        pt.prune(layers, EXAMPLE, macs=0.5)


def test_torchs_own_masks_are_to_be_made_permanent_first(layers):
    prune.l1_unstructured(layers[2], "weight", 0.5)
    with pytest.raises(BackboneError, match=r"torch\.nn\.utils\.prune\.remove"):
        pt.prune(layers, EXAMPLE, macs=0.5, round_to=1)
    prune.remove(layers[2], "weight")
    assert macs(pt.prune(layers, EXAMPLE, macs=0.5, round_to=1)) <= 0.5 * macs(layers)


class Changed(nn.Module):
    """A network whose logits, or whose features, something is done to."""

    def __init__(self, net, to_features=None, to_logits=None):
        super().__init__()
        self.net, self.to_features, self.to_logits = net, to_features, to_logits

    def forward(self, images):
        features = self.net[:6](images)
        features = features if self.to_features is None else self.to_features(self, features)
        logits = self.net[6](features)
        return logits if self.to_logits is None else self.to_logits(self, logits)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"to_logits": lambda _, logits: (logits, None)}, "gives a tuple, not a tensor of logits"),
        ({"to_logits": lambda _, logits: {"out": logits}}, "gives a dict, not a tensor of logits"),
        ({"to_features": lambda own, x: x * own.net[0].out_channels}, "they differ by"),
        ({"to_features": lambda own, x: {16: x}[own.net[0].out_channels]}, "KeyError: "),
    ],
)
@pytest.mark.parametrize("silent", [False, True])
def test_what_would_be_cut_wrongly_is_refused_also_behind_a_classifier_of_zeros(
    layers, silent, change, words
):
    if silent:
        nn.init.zeros_(layers[6].weight)
    with pytest.raises(BackboneError, match=words):
        pt.prune(Changed(layers, **change), EXAMPLE, macs=0.5, round_to=1)


def test_a_network_without_sizes_or_values_is_refused(layers):
    lazy = nn.Sequential(nn.LazyConv2d(16, 3), *layers[1:])
    with pytest.raises(BackboneError, match="weight of 0 .* has no size before"):
        pt.prune(lazy, EXAMPLE, macs=0.5)
    with pytest.raises(UsageError, match="module has no values"):
        pt.prune(layers.to("meta"), EXAMPLE, macs=0.5)


def test_a_deep_network_in_half_precision_is_cut_in_it():
    torch.manual_seed(0)
    deep = [layer for _ in range(30) for layer in (nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU())]
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5, bias=False)]
    net = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), *deep, *tail).bfloat16()
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    small = pt.prune(net, EXAMPLE, macs=0.5, round_to=1)
    assert {p.dtype for p in (*net.parameters(), *small.parameters())} == {torch.bfloat16}


class Encoded(nn.Module):
    """Patches of a map as tokens, through torch's own encoder."""

    def __init__(self, norm_first):
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 4, 4)
        layer = nn.TransformerEncoderLayer(24, 4, 48, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(24, 5)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        return self.head(self.encoder(tokens).mean(1))


@pytest.mark.parametrize("norm_first", [False, True])
def test_torchs_encoder_layers_lose_heads_and_hidden_units(norm_first):
    torch.manual_seed(0)
    net = Encoded(norm_first).eval()
    image = torch.randn(2, 3, SIDE, SIDE)
    expected = net(image)
    whole = pt.prune(net, EXAMPLE, macs=1.0)
    assert torch.allclose(whole(image), expected, atol=1e-5)
    small = pt.prune(net, EXAMPLE, macs=0.7, round_to=1).train()
    assert nn.MultiheadAttention in {type(module) for module in net.modules()}, "as it was"
    layer = small.encoder.layers[0]
    assert layer.linear1.out_features < 48 and layer.self_attn.in_proj.out_features % 18 == 0
    small(image).sum().backward()
    with torch.no_grad():
        assert torch.isfinite(small.eval()(image)).all()
