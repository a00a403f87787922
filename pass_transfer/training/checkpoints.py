"""Checkpoints: nested states of tensors, numbers and words, each saved under a name.

A state is two files: its tensors, and a pointer with everything else, which is written
last. The tensors of the state before stay until then, so that a kill at any moment leaves
a whole state.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pass_transfer.errors import StorageError
from pass_transfer.files import read_json, read_tensors, sha256, write_json, write_tensors

TENSOR, DICT = "__tensor__", "__dict__"  # mark what JSON has no word for


def has_state(folder: Path, name: str) -> bool:
    """Whether a state was saved under a name."""
    return _pointer(folder, name).exists()


def save_state(folder: Path, name: str, state: Mapping[str, Any]) -> None:
    """Save nested dicts and lists of tensors, numbers and strings. Raises StorageError."""
    tensors: dict[str, torch.Tensor] = {}
    plain = _take_tensors(state, tensors)
    pointer = _pointer(folder, name)
    old = read_json(pointer)["tensors"] if pointer.exists() else ""
    turn = "b" if old.startswith(f"{name}.a.") else "a"
    fresh = f"{name}.{turn}.safetensors"
    write_tensors(folder / fresh, tensors)
    write_json(pointer, {"tensors": fresh, "sha256": sha256(folder / fresh), "state": plain})


def load_state(folder: Path, name: str) -> dict[str, Any] | None:
    """The state last saved under a name, or None. Raises StorageError if it is damaged."""
    if not has_state(folder, name):
        return None
    note = read_json(_pointer(folder, name))
    path = folder / note["tensors"]
    if sha256(path) != note["sha256"]:
        raise StorageError(
            f"{path} is not what was saved (its sha-256 differs); start again (force)"
        )
    return _put_tensors(note["state"], read_tensors(path))


def _pointer(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def _take_tensors(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """A value with numbers in the place of its tensors, which are collected.

    A dict becomes a list of pairs, so that its keys keep their type in JSON.
    """
    if isinstance(value, torch.Tensor):
        number = str(len(tensors))
        tensors[number] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {TENSOR: number}
    if isinstance(value, Mapping):
        return {DICT: [[key, _take_tensors(part, tensors)] for key, part in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_take_tensors(part, tensors) for part in value]
    return value


def _put_tensors(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """What _take_tensors was given."""
    if isinstance(value, dict):
        if TENSOR in value:
            return tensors[value[TENSOR]]
        return {key: _put_tensors(part, tensors) for key, part in value[DICT]}
    if isinstance(value, list):
        return [_put_tensors(part, tensors) for part in value]
    return value
