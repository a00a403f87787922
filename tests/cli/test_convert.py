"""convert: a checkpoint as it is found to safetensors."""

import argparse
import json

import pytest
import torch

from pass_transfer.files import read_tensors


class Evil:
    """A pickle of it would write a file, if anything called what it names."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_what_is_taken_and_what_is_left_is_said(call, tmp_path):
    weights = {"module.a": torch.ones(3), "module.b": torch.arange(6).half().view(2, 3)}
    content = {
        "epoch": 7,
        "state_dict": weights,
        "args": argparse.Namespace(lr=1),
        "optimizer": {"state": {0: {"m": torch.ones(3)}}, "param_groups": []},
        "evil": Evil(tmp_path / "ran"),
    }
    old, new = tmp_path / "old.pth", tmp_path / "new.safetensors"
    torch.save(content, old)
    code, out, err = call("convert", old, new)
    assert code == 0 and not (tmp_path / "ran").exists(), err
    assert "2 tensors" in out and "float16, float32" in out
    for left in ("epoch (int)", "args (argparse.Namespace)", "optimizer (an optimizer's state)"):
        assert left in out
    found = read_tensors(new)
    assert {f"state_dict.{name}" for name in weights} == set(found)
    for name, tensor in weights.items():
        assert torch.equal(found[f"state_dict.{name}"], tensor)
        assert found[f"state_dict.{name}"].dtype == tensor.dtype
    said = json.loads(call("convert", old, new, "--force", "--json")[1])
    assert said["numbers"] == 9 and set(said["left"]) == {"epoch", "args", "optimizer", "evil"}


@pytest.mark.parametrize(
    "new, code, word",
    [
        ("there.safetensors", 1, "--force"),
        ("new.pth", 2, "give it the ending .safetensors"),
        ("no/folder/../new.safetensors", 1, "cannot write"),
    ],
)
def test_what_cannot_be_written_is_refused(refused, tmp_path, new, code, word):
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    torch.save({"a": torch.ones(1)}, tmp_path / "old.pth")
    assert word in refused("convert", tmp_path / "old.pth", tmp_path / new, code=code)
    assert (tmp_path / "there.safetensors").read_bytes() == b"mine"


def test_tensors_that_safetensors_cannot_hold_and_files_without_any_are_refused(refused, tmp_path):
    torch.save({"a": torch.eye(3).to_sparse()}, tmp_path / "sparse.pth")
    torch.save({"lr": 1}, tmp_path / "none.pth")
    new = tmp_path / "new.safetensors"
    assert "tensor a is sparse" in refused("convert", tmp_path / "sparse.pth", new)
    assert "plain tensors" in refused("convert", tmp_path / "none.pth", new)
    assert not new.exists()


def test_a_safetensors_file_is_not_replaced_by_itself(refused, tmp_path):
    path = tmp_path / "a.safetensors"
    torch.save({"a": torch.ones(1)}, path)
    assert "give another name" in refused("convert", path, path, "--force", code=2)
