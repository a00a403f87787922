import errno
import hashlib
import json
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pass_transfer.errors import StorageError
from pass_transfer.files import (
    make_folder,
    read_json,
    read_tensors,
    sha256,
    write_bytes,
    write_json,
    write_tensors,
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_json_comes_back_as_it_was_written(tmp_path, value):
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == value


@given(st.binary(max_size=4096))
def test_sha256_is_that_of_the_content(tmp_path, content):
    write_bytes(tmp_path / "file", content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_sha256_of_a_file_larger_than_one_read(tmp_path):
    content = os.urandom(3 << 20)
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_tensors_come_back_with_dtype_and_shape(tmp_path):
    given = {
        "a": torch.randn(3, 4),
        "b": torch.randn(2).half(),
        "c": torch.tensor(5),
        "d": torch.rand(4) < 0.5,
        "e": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "f": torch.randn(4, 6)[:, ::2],
    }
    write_tensors(tmp_path / "t.safetensors", given)
    back = read_tensors(tmp_path / "t.safetensors")
    assert back.keys() == given.keys()
    assert all(back[n].dtype == t.dtype and torch.equal(back[n], t) for n, t in given.items())


def test_equal_tensors_give_equal_bytes_whatever_their_memory_layout(tmp_path):
    x = torch.randn(2, 3, 4, 4)
    write_tensors(tmp_path / "one", {"x": x, "y": x + 1})
    write_tensors(
        tmp_path / "two",
        {"y": x + 1, "x": x.contiguous(memory_format=torch.channels_last).requires_grad_()},
    )
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_writing_leaves_no_other_file_behind_and_others_may_read_it(tmp_path):
    write_bytes(tmp_path / "file", b"old")
    write_bytes(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "file").stat().st_mode & 0o444 == 0o444


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing):
    write_bytes(tmp_path / "file", b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(StorageError, match="No space left"):
        write_bytes(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize("value", [float("nan"), {"a": [float("inf")]}])
def test_json_without_a_number_is_refused_and_the_old_file_stays(tmp_path, value):
    write_json(tmp_path / "value.json", 1)
    with pytest.raises(ValueError):
        write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"{'a': 1}",
        json.dumps({"a": 1}).encode()[:-1],
        b'{"a": 1, "a": 2}',
        b"[NaN]",
        b"[-Infinity]",
        b"[1e400]",
        b"9" * 5000,
        b"[" * 101 + b"]" * 101,
        b"[" * 100_000 + b"]" * 100_000,
    ],
)
def test_damaged_json_is_refused_with_its_path(tmp_path, content):
    (tmp_path / "value.json").write_bytes(content)
    with pytest.raises(StorageError, match="value.json"):
        read_json(tmp_path / "value.json")


@given(st.data())
def test_a_cut_tensor_file_is_refused(tmp_path, data):
    write_tensors(tmp_path / "whole", {"x": torch.arange(10)})
    whole = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(StorageError, match="cut"):
        read_tensors(tmp_path / "cut")


@pytest.mark.parametrize("read", [read_json, read_tensors, sha256])
def test_a_missing_file_or_a_folder_is_a_storage_error(tmp_path, read):
    with pytest.raises(StorageError, match="nothing"):
        read(tmp_path / "nothing")
    with pytest.raises(StorageError):
        read(tmp_path)


def test_a_folder_below_a_file_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        make_folder(tmp_path / "file" / "below")
    assert make_folder(tmp_path / "a" / "b").is_dir()
    assert make_folder(tmp_path / "a" / "b").is_dir()
