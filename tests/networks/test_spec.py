import shlex

import pytest
import torch

from pass_transfer.errors import BackboneError, StorageError, UsageError
from pass_transfer.files import write_tensors
from pass_transfer.networks import (
    BackboneSpec,
    architectures,
    build_backbone,
    classifier_name,
    load_checkpoint,
    load_weights,
)


def fresh(classes: int = 10) -> torch.nn.Module:
    return build_backbone(BackboneSpec("resnet18", classes, 32))


@pytest.mark.parametrize("architecture", ["resnet18", "resnext50_32x4d"])
def test_a_spec_builds_that_network_with_its_classes(architecture):
    network = build_backbone(BackboneSpec(architecture, 7, 32)).eval()
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    assert classifier_name(network) == "fc"


def test_an_unknown_architecture_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="resnet19.*resnet18"):
        build_backbone(BackboneSpec("resnet19", 10, 32))
    assert "resnet18" in architectures()


@pytest.mark.parametrize(
    "change",
    [
        {"classes": 0},
        {"classes": "ten"},
        {"image_size": -1},
        {"image_size": 32.5},
        {"mean": (0.5, 0.5)},
        {"mean": ("a", "b", "c")},
        {"std": (1.0, 0.0, 1.0)},
        {"mean": (0, 0, float("nan"))},
        {"std": 1},
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(change):
    with pytest.raises(UsageError, match=next(iter(change))):
        BackboneSpec(**{"architecture": "resnet18", "classes": 10, "image_size": 32} | change)


def test_the_last_convolution_classifies_where_there_is_no_linear_layer():
    layers = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 5, 1), torch.nn.ReLU()
    assert classifier_name(torch.nn.Sequential(*layers)) == "2"


def test_a_network_without_weights_that_mix_channels_has_no_classifier():
    with pytest.raises(BackboneError, match="classifier"):
        classifier_name(torch.nn.Sequential(torch.nn.BatchNorm2d(3)))


@pytest.mark.parametrize("kind", ["w.safetensors", "w.pth", "w.pt"])
def test_weights_are_loaded_from_a_file(tmp_path, kind):
    source = fresh()
    if kind.endswith("safetensors"):
        write_tensors(tmp_path / kind, source.state_dict())
    else:
        torch.save(source.state_dict(), tmp_path / kind)
    network = fresh()
    assert load_weights(network, SPEC, tmp_path / kind) == []
    assert all(torch.equal(t, source.state_dict()[n]) for n, t in network.state_dict().items())


def test_a_training_checkpoint_of_a_parallel_network_is_loaded_too(tmp_path):
    source = fresh()
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{n}": t for n, t in source.state_dict().items()}},
        tmp_path / "w.pth",
    )
    network = fresh()
    assert load_weights(network, SPEC, tmp_path / "w.pth") == []
    assert torch.equal(network.conv1.weight, source.conv1.weight)


def test_the_network_of_a_run_is_loaded_without_its_prompt(tmp_path):
    source = fresh()
    write_tensors(
        tmp_path / "w.safetensors",
        {f"backbone.{n}": t for n, t in source.state_dict().items()}
        | {"prompt.values": torch.zeros(3, 32, 32)},
    )
    network = fresh()
    assert load_weights(network, SPEC, tmp_path / "w.safetensors") == []
    assert torch.equal(network.fc.weight, source.fc.weight)


def test_a_classifier_of_another_size_is_left_out_and_named(tmp_path):
    torch.save(fresh(200).state_dict(), tmp_path / "w.pth")
    network = fresh(10)
    before = network.fc.weight.clone()
    assert load_weights(network, SPEC, tmp_path / "w.pth") == ["fc.bias", "fc.weight"]
    assert torch.equal(network.fc.weight, before)


def test_files_without_weights_of_this_network_are_refused_and_change_nothing(tmp_path):
    state = fresh().state_dict()
    broken = {
        "missing": {n: t for n, t in state.items() if n != "layer1.0.conv1.weight"},
        "shape": state | {"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)},
        "unknown": state | {"layer9.weight": torch.zeros(1)},
        "NaN": state | {"conv1.weight": torch.full((64, 3, 7, 7), float("nan"))},
        "state dict": [1, 2, 3],
    }
    network = fresh()
    before = network.conv1.weight.clone()
    for word, content in broken.items():
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(BackboneError, match=word):
            load_weights(network, SPEC, tmp_path / "w.pth")
        assert torch.equal(network.conv1.weight, before)


class Evil:
    """A pickle that would run code when it is read."""

    def __reduce__(self):
        return print, ("pickled code ran",)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, capsys):
    torch.save({"conv1.weight": Evil()}, tmp_path / "w.pth")
    with pytest.raises(BackboneError, match="plain tensors"):
        load_weights(fresh(), SPEC, tmp_path / "w.pth")
    assert capsys.readouterr().out == ""


def test_missing_and_damaged_files_and_unknown_names_are_refused(tmp_path):
    (tmp_path / "bad.pth").write_bytes(b"no archive")
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    for weights, error in [
        ("none.pth", BackboneError),
        ("bad.pth", BackboneError),
        ("bad.safetensors", StorageError),
        ("none.safetensors", StorageError),
    ]:
        with pytest.raises(error, match=weights):
            load_weights(fresh(), SPEC, tmp_path / weights)
    with pytest.raises(BackboneError, match="IMAGENET1K_V1"):
        load_weights(fresh(), SPEC, "IMAGENET1K_V7")


SPEC = BackboneSpec("resnet18", 10, 32)


@pytest.mark.parametrize("classes, prefix", [(10, ""), (37, "module."), (1, "backbone.")])
def test_a_checkpoint_of_ones_own_is_read_with_its_classifier(tmp_path, classes, prefix):
    source = fresh(classes)
    write_tensors(
        tmp_path / "w.safetensors",
        {f"{prefix}{n}": t for n, t in source.state_dict().items()}
        | ({"prompt.values": torch.zeros(3)} if prefix == "backbone." else {}),
    )
    network, spec = load_checkpoint(tmp_path / "w.safetensors", SPEC)
    assert spec.classes == classes and not network.training
    assert all(torch.equal(t, source.state_dict()[n]) for n, t in network.state_dict().items())


def test_half_precision_is_read_as_float32_and_counters_may_be_missing(tmp_path):
    state = {
        n: t.half() if t.is_floating_point() else t
        for n, t in fresh().state_dict().items()
        if "num_batches" not in n
    }
    write_tensors(tmp_path / "w.safetensors", state)
    network, _ = load_checkpoint(tmp_path / "w.safetensors", SPEC)
    assert network.conv1.weight.dtype == torch.float32 and torch.equal(
        network.conv1.weight, state["conv1.weight"].float()
    )


@pytest.mark.parametrize(
    "change, words",
    [
        ({"layer1.0.conv1.weight": None}, "layer1.0.conv1.weight is missing"),
        ({"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}, "layer1.0.conv1.weight has shape"),
        ({"layer9.weight": torch.zeros(1)}, "unknown tensor layer9.weight"),
        ({"bn1.running_var": torch.full((64,), float("nan"))}, "bn1.running_var holds NaN"),
        (
            {"bn1.bias": torch.full((64,), 1e300, dtype=torch.float64)},
            "bn1.bias holds NaN or infinite",
        ),
        ({"conv1.weight": torch.ones(64, 3, 7, 7, dtype=torch.int8)}, "conv1.weight is torch.int8"),
        ({"fc.weight": None}, "fc.weight is missing"),
        ({"fc.weight": torch.zeros(10, 99)}, "fc.weight has shape"),
        ({"fc.weight": torch.zeros(10)}, "fc.weight has shape"),
        ({"fc.bias": None}, "fc.bias is missing"),
        ({"fc.bias": torch.zeros(9)}, "fc.bias has shape"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_and_the_tensor_named(tmp_path, change, words):
    write_tensors(
        tmp_path / "w.safetensors",
        {n: t for n, t in (fresh().state_dict() | change).items() if t is not None},
    )
    with pytest.raises(BackboneError, match=words):
        load_checkpoint(tmp_path / "w.safetensors", SPEC)


def test_another_architectures_checkpoint_is_refused(tmp_path):
    write_tensors(
        tmp_path / "w.safetensors", build_backbone(BackboneSpec("resnet34", 10, 32)).state_dict()
    )
    with pytest.raises(BackboneError, match="unknown tensor layer.*not weights of resnet18"):
        load_checkpoint(tmp_path / "w.safetensors", SPEC)


@pytest.mark.parametrize("kind", ["pth", "ckpt"])
def test_a_pickled_checkpoint_is_refused_with_the_command_that_converts_it(tmp_path, kind, call):
    source = fresh(4)
    torch.save(source.state_dict(), tmp_path / f"w.{kind}")
    with pytest.raises(BackboneError, match="safetensors") as refusal:
        load_checkpoint(tmp_path / f"w.{kind}", SPEC)
    command = str(refusal.value).partition("pass-transfer convert ")[2]
    assert call("convert", *shlex.split(command))[0] == 0
    network, spec = load_checkpoint(tmp_path / "w.safetensors", SPEC)
    assert spec.classes == 4 and torch.equal(network.fc.weight, source.fc.weight)


@pytest.mark.parametrize("name", ["none.safetensors", "none.pth", "folder", "w.onnx"])
def test_a_checkpoint_that_is_not_there_or_of_another_kind_is_refused(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises((BackboneError, StorageError), match=name):
        load_checkpoint(tmp_path / name, SPEC)
