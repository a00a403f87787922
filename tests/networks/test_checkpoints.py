"""What people have in their files: read where it is weights, refused by name where it is not."""

import argparse
import collections
import enum
import json
import pathlib
import shlex

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from pass_transfer.errors import BackboneError, PassTransferError, StorageError
from pass_transfer.files import write_tensors
from pass_transfer.networks import (
    BackboneSpec,
    build_backbone,
    has_classifier,
    load_checkpoint,
    load_weights,
    read_checkpoint,
)

SPEC = BackboneSpec("resnet18", 10, 32)


def fresh(classes=4, seed=0, architecture="resnet18"):
    torch.manual_seed(seed)
    return build_backbone(BackboneSpec(architecture, classes, 32)).eval()


def under(prefix, network=None):
    return {f"{prefix}{n}": t for n, t in (network or fresh()).state_dict().items()}


def same(network, source):
    """Whether all but the classifier are the same."""
    own, theirs = network.state_dict(), source.state_dict()
    return all(torch.equal(own[n], theirs[n]) for n in own if not n.startswith("fc."))


pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, of what it will drop


class Options(dict):
    """As a training script may have them."""


class Plain:
    """The same, as attributes."""

    def __init__(self):
        self.rate, self.pair = 0.1, (1, 2)


class Colour(enum.Enum):
    RED = 1


def beside():
    """What scripts put beside the weights."""
    network = fresh(2, seed=9)
    adam = torch.optim.Adam(network.fc.parameters())
    sum(p.sum() for p in network.fc.parameters()).backward()
    adam.step()
    return {
        "optimizer": adam.state_dict(),
        "args": argparse.Namespace(lr=0.1, path=pathlib.Path("/data"), best=np.float64(3)),
        "best": np.float32(2),
        "options": Options(a=1),
        "plain": Plain(),
        "colour": Colour.RED,
        "losses": collections.deque([1.0]),
        "metrics": collections.defaultdict(list, {"a": [1]}),
        "seen": np.arange(3),
        "epoch": 3,
        "nothing": None,
    }


def lightning():
    """A module whose backbone has no classifier of its own."""
    network = fresh()
    network.fc = nn.Identity()
    whole = nn.Module()
    whole.backbone, whole.head = network, nn.Linear(512, 3)
    return {"state_dict": whole.state_dict(), "hyper_parameters": Options(lr=1)}


READ = {
    "torchvision's script": lambda: {"model": under("")},
    "timm": lambda: {"state_dict": under("")},
    "compiled": lambda: {"model_state_dict": under("_orig_mod.")},
    "compiled in parallel": lambda: under("module._orig_mod."),
    "Lightning": lightning,
    "a name of one's own": lambda: {"net": {"weights": under("encoder.net.module.")}},
    "an average alone": lambda: {"state_dict_ema": under("")},
    "AveragedModel": lambda: torch.optim.swa_utils.AveragedModel(fresh()).state_dict(),
    "a module": fresh,
    "a module inside": lambda: {"model": nn.Sequential(fresh())},
    "double": lambda: {n: t.double() if t.is_floating_point() else t for n, t in under("").items()},
    "DINO without classifier": lambda: {
        "student": {n: t for n, t in under("module.backbone.").items() if ".fc." not in n},
        "teacher": {n: t for n, t in under("backbone.", fresh(seed=5)).items() if ".fc." not in n},
    },
    "an average too": lambda: {
        "state_dict_ema": under("", fresh(seed=5)),
        "state_dict": under(""),
    },
    "MoCo": lambda: {
        "state_dict": under("module.encoder_k.", fresh(seed=5)) | under("module.encoder_q.")
    },
}


@pytest.mark.parametrize("kind", READ)
def test_a_training_scripts_checkpoint_is_read_whatever_is_beside_the_weights(tmp_path, kind):
    content = READ[kind]()
    if isinstance(content, dict) and "conv1.weight" not in content and "n_averaged" not in content:
        content = content | beside()
    torch.save(content, tmp_path / "w.pth")
    allowed = set(torch.serialization.get_safe_globals())
    network = fresh(7, seed=3)
    assert load_weights(network, SPEC, tmp_path / "w.pth") == ["fc.bias", "fc.weight"]
    assert same(network, fresh()) and set(torch.serialization.get_safe_globals()) == allowed


@pytest.mark.parametrize("kind", READ)
def test_the_conversion_keeps_what_a_backbone_needs(tmp_path, kind, call):
    torch.save(READ[kind](), tmp_path / "w.pth")
    with pytest.raises(BackboneError, match="pickle") as refusal:
        load_checkpoint(tmp_path / "w.pth", SPEC)
    command = str(refusal.value).partition("pass-transfer convert ")[2]
    assert call("convert", *shlex.split(command))[0] == 0
    network, spec = load_checkpoint(tmp_path / "w.safetensors", SPEC)
    assert same(network, fresh()) and spec.classes == (4 if has_classifier(network) else 1)
    assert has_classifier(network) == (kind not in ("Lightning", "DINO without classifier"))


def test_the_users_own_allowed_classes_stay_allowed(tmp_path):
    torch.save({"model": under(""), "args": argparse.Namespace(a=1)}, tmp_path / "w.pth")
    with torch.serialization.safe_globals([argparse.Namespace]):
        read_checkpoint(tmp_path / "w.pth")
        assert argparse.Namespace in torch.serialization.get_safe_globals()


class Evil:
    """A pickle that would run code when it is read."""

    def __reduce__(self):
        return print, ("pickled code ran",)


def test_code_beside_the_weights_is_not_run(tmp_path, capsys):
    torch.save({"model": under(""), "hook": Evil()}, tmp_path / "w.pth")
    network = fresh(seed=3)
    assert load_weights(network, SPEC, tmp_path / "w.pth") == []
    assert same(network, fresh()) and capsys.readouterr().out == ""


@pytest.mark.parametrize("place", ["fc.1.", "fc.0.", "fc.head.linear."])
def test_one_linear_layer_in_a_sequential_is_the_classifier(tmp_path, place):
    state = {n.replace("fc.", place): t for n, t in under("model.").items()}
    write_tensors(tmp_path / "w.safetensors", state)
    network, spec = load_checkpoint(tmp_path / "w.safetensors", SPEC)
    assert spec.classes == 4 and torch.equal(network.fc.weight, fresh().fc.weight)
    own = fresh(seed=3)
    assert load_weights(own, SPEC, tmp_path / "w.safetensors") == []
    assert torch.equal(own.fc.bias, fresh().fc.bias)


def test_a_backbone_without_a_classifier_gets_zeros_for_one(tmp_path):
    state = {n: t for n, t in under("").items() if not n.startswith("fc.")}
    write_tensors(tmp_path / "w.safetensors", state)
    network, spec = load_checkpoint(tmp_path / "w.safetensors", SPEC)
    assert same(network, fresh()) and spec.classes == 1 and not has_classifier(network)
    assert load_weights(fresh(), SPEC, tmp_path / "w.safetensors") == [
        "fc.bias",
        "fc.weight",
    ]


def traced(path):
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), path)


def exported(path):
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), path)


def text(content):
    return lambda path: path.write_text(content)


def saved(make):
    return lambda path: torch.save(make(), path)


def adam():
    return torch.optim.Adam(fresh().parameters()).state_dict()


def dynamically_quantised():
    quantise = torch.ao.quantization.quantize_dynamic
    return quantise(fresh(), {nn.Linear}, dtype=torch.qint8).state_dict()


def averages():
    return {"first": under(""), "second": under("", fresh(seed=5))}


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 46830571\n"
REFUSED = {
    "empty": (text(""), "is empty"),
    "pointer": (text(POINTER), "git lfs pull"),
    "page": (text("\n<!DOCTYPE html>\n<html>"), "web page"),
    "words": (text("Not found"), "no checkpoint"),
    "TorchScript": (traced, "TorchScript"),
    "program": (exported, "torch.export"),
    "NumPy": (lambda path: np.savez(path.open("wb"), a=np.zeros(2)), "NumPy"),
    "optimizer": (saved(adam), "optimizer"),
    "optimizer inside": (saved(lambda: {"optimizer": adam(), "epoch": 1}), "optimizer"),
    "list": (saved(lambda: [1, 2]), "it holds: list"),
    "LoRA": (saved(lambda: {"base.model.fc.lora_A.weight": torch.zeros(4, 512)}), "LoRA"),
    "quantised": (saved(dynamically_quantised), "quantised"),
    "several": (saved(averages), "prefixes first. and second."),
    "another": (saved(lambda: fresh(4, 0, "resnet34").state_dict()), "but of resnet34"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("name", ["w.pth", "w.pt"])
def test_a_file_that_is_something_else_is_refused_by_what_it_is(tmp_path, kind, name):
    write, words = REFUSED[kind]
    write(tmp_path / name)
    network = fresh()
    with pytest.raises(BackboneError, match=words) as refusal:
        load_weights(network, SPEC, tmp_path / name)
    assert str(tmp_path / name) in str(refusal.value) and same(network, fresh())


@pytest.mark.parametrize("kind", ["empty", "pointer", "page", "TorchScript", "program"])
def test_so_is_one_that_is_called_safetensors(tmp_path, kind):
    write, words = REFUSED[kind]
    write(tmp_path / "w.safetensors")
    with pytest.raises(BackboneError, match=words):
        load_checkpoint(tmp_path / "w.safetensors", SPEC)


def test_the_kind_is_told_by_the_content(tmp_path):
    write_tensors(tmp_path / "tensors.pth", under(""))
    torch.save(under(""), tmp_path / "pickle.safetensors")
    for name in ("tensors.pth", "pickle.safetensors"):
        network = fresh(seed=3)
        load_weights(network, SPEC, tmp_path / name)
        assert same(network, fresh())
    assert load_checkpoint(tmp_path / "tensors.pth", SPEC)[1].classes == 4
    with pytest.raises(BackboneError, match="pickle-converted.safetensors"):
        load_checkpoint(tmp_path / "pickle.safetensors", SPEC)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.99])
@pytest.mark.parametrize("kind", ["w.pth", "w.safetensors"])
def test_a_file_that_is_cut_short_is_refused(tmp_path, kind, share):
    path = tmp_path / kind
    save = torch.save if kind == "w.pth" else lambda state, path: write_tensors(path, state)
    save(under(""), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises((BackboneError, StorageError), match=kind):
        load_weights(fresh(), SPEC, path)


def test_a_checkpoint_of_before_torch_1_6_is_read(tmp_path):
    content = {"state_dict": under("module."), "args": argparse.Namespace(lr=1)}
    torch.save(content, tmp_path / "w.pth.tar", _use_new_zipfile_serialization=False)
    network = fresh(seed=3)
    assert load_weights(network, SPEC, tmp_path / "w.pth.tar") == []
    assert same(network, fresh())


def test_tensors_that_share_memory_come_apart(tmp_path):
    base = torch.arange(6.0)
    torch.save({"a": base, "b": base[2:], "c": base.view(2, 3).T}, tmp_path / "w.pth")
    found = read_checkpoint(tmp_path / "w.pth")
    write_tensors(tmp_path / "w.safetensors", found)
    assert all(torch.equal(t, found[n]) for n, t in read_checkpoint(tmp_path / "w.pth").items())


@pytest.mark.parametrize("length", [0x8B1F, 0x4B50, 0x80, 0x100])
def test_the_length_of_a_header_is_not_taken_for_another_files_beginning(tmp_path, length):
    content = save({"a": torch.ones(1)}, {"note": ""})
    added = length - int.from_bytes(content[:8], "little")
    header = json.loads(content[8:-4])
    header["__metadata__"]["note"] = "x" * (added + len(content[8:-4]) - len(json.dumps(header)))
    whole = json.dumps(header).ljust(length).encode()
    (tmp_path / "w.pth").write_bytes(length.to_bytes(8, "little") + whole + content[-4:])
    assert torch.equal(read_checkpoint(tmp_path / "w.pth")["a"], torch.ones(1))


def small_files(folder):
    """The bytes of a small checkpoint in each of the forms that are read."""
    content = {"model": {"a": torch.ones(3)}, "args": argparse.Namespace(x=1)}
    path = folder / "small"
    for old in (False, True):
        torch.save(content, path, _use_new_zipfile_serialization=not old)
        yield path.read_bytes()
    yield save({"a": torch.ones(3)})


@given(
    st.integers(0, 2),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=20),
    st.floats(0, 1),
)
def test_damaged_bytes_are_read_or_refused_by_our_own_errors(
    tmp_path_factory, kind, changes, share
):
    folder = tmp_path_factory.mktemp("damaged")
    content = bytearray(list(small_files(folder))[kind])
    for place, value in changes:
        content[int(place * len(content))] = value
    (folder / "w.pth").write_bytes(content[: int(share * len(content))] if share < 0.3 else content)
    try:
        read_checkpoint(folder / "w.pth")
    except PassTransferError as refusal:
        assert str(folder / "w.pth") in str(refusal)
