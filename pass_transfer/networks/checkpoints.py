"""What a file of weights holds: tensors by name, found by its content and not by its ending.

No class or function that a pickle names is imported or called: an empty stand-in takes its
place. So a checkpoint can be read with whatever its training script put beside the weights.
"""

from __future__ import annotations

import shlex
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pass_transfer.arguments import expanded
from pass_transfer.errors import BackboneError
from pass_transfer.files import read_tensors

SAFETENSORS, PICKLE = "safetensors", "pickle"
ZIP, OLD_PICKLE = b"PK\x03\x04", b"\x80"  # a checkpoint, since torch 1.6 and before
HEAD = 512  # bytes that tell what a file is
OPTIMIZER = "param_groups"  # an optimizer's state has this entry
PARTS_OF_MODULE = ("_parameters", "_buffers", "_modules")
DEEPEST = 64  # names within names
ALOOF = ("numpy.", "functools.", "collections.deque")  # their states are no dicts

CONVERSION = (
    "{old} is a pickle, which could run code; a backbone is read from safetensors alone. "
    "Convert it once, which runs no code of the file: pass-transfer convert {old} {new}"
)

OTHERS = {  # how other files begin, and what to say of them
    b"version https://git-lfs": "is a pointer of git-lfs, not the file: fetch it with git lfs pull",
    b"\x89HDF": "is an HDF5 file, as Keras writes it: convert it to a state dict in safetensors",
    b"GGUF": "is a GGUF file, for language models",
    b"\x1f\x8b": "is compressed with gzip: unpack it first",
    b"\x93NUMPY": "is one NumPy array without names: give a state dict",
    b"<!doctype html": "is a web page, not the file: download it again from the link to the file",
    b"<html": "is a web page, not the file: download it again from the link to the file",
    b"<?xml": "is an XML answer, not the file: download it again",
}
ARCHIVES = {  # what an entry of a zip file ends in, and what to say of it
    "constants.pkl": "is a TorchScript archive: save torch.jit.load(...).state_dict() and give "
    "that file",
    "models/model.json": "is a program of torch.export: save torch.export.load(...).state_dict "
    "and give that file",
    "serialized_exported_program.json": "is a program of torch.export: save "
    "torch.export.load(...).state_dict and give that file",
    ".npy": "is an archive of NumPy arrays: save them as tensors in safetensors",
}


def file_kind(path: Path) -> str:
    """SAFETENSORS or PICKLE, by a file's first bytes.

    Raises:
        BackboneError: a file that is missing, or is neither; it says what the file is.
    """
    if path.is_dir():
        raise BackboneError(f"{path} is a folder; give the file with the weights")
    if not path.is_file() and path.suffix != ".safetensors":
        raise BackboneError(f"no weights file {path}")
    if not path.is_file():
        return SAFETENSORS  # whose reader says that it is missing
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise BackboneError(f"cannot read {path}: {error.strerror or error}") from error
    if not head:
        raise BackboneError(f"{path} is empty; copy or download it again")
    if head[8:9] == b"{":  # after eight bytes that may be anything: the length of a JSON header
        return SAFETENSORS
    _refuse_others(path, head)
    if head.startswith(ZIP):
        return _archive_kind(path)
    if head.startswith(OLD_PICKLE):
        return PICKLE
    if path.suffix == ".safetensors":
        return SAFETENSORS  # whose reader says that it is damaged
    raise BackboneError(f"{path} is damaged, or no checkpoint: neither safetensors nor a pickle")


@dataclass(frozen=True)
class Checkpoint:
    """What a file of weights holds.

    Fields:
        tensors: all but an optimizer's, by name, on the CPU. A name is the path to the tensor:
            "state_dict.module.conv1.weight".
        left: names of what else there is, with what that is.
    """

    tensors: dict[str, torch.Tensor]
    left: dict[str, str]


def read_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint; see open_checkpoint."""
    return open_checkpoint(path).tensors


def open_checkpoint(path: str | Path) -> Checkpoint:
    """What a checkpoint holds: its tensors, and the names of what else there is.

    Args:
        path: a safetensors file or a pickle of torch.save: a state dict, a training script's
            checkpoint, or a whole module.

    Raises:
        BackboneError: a file that is missing, damaged, or holds no tensors; it says what it is.
        StorageError: a damaged safetensors file.
    """
    path = expanded(path)
    if file_kind(path) == SAFETENSORS:
        return Checkpoint(read_tensors(path), {})
    content = _unpickled(path)
    found = {name: tensor.detach() for name, tensor in _tensors(content)}
    if not found:
        raise BackboneError(f"{path} {_without_tensors(content)}")
    return Checkpoint(_apart(found), _left(content))


def conversion(path: Path) -> str:
    """What to say of a pickle where only safetensors is read."""
    new = path.with_suffix(".safetensors")
    if new == path:
        new = path.with_name(f"{path.stem}-converted.safetensors")
    return CONVERSION.format(old=shlex.quote(str(path)), new=shlex.quote(str(new)))


def _refuse_others(path: Path, head: bytes) -> None:
    """Refuse what begins like something else."""
    begins = head.lstrip().lower()
    for start, said in OTHERS.items():
        if head.startswith(start) or begins.startswith(start):
            raise BackboneError(f"{path} {said}")


def _archive_kind(path: Path) -> str:
    """PICKLE for a zip file of torch.save. Raises BackboneError for any other."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise BackboneError(f"{path} is cut short or damaged; copy it again") from error
    for end, said in ARCHIVES.items():
        if any(name.endswith(end) for name in names):
            raise BackboneError(f"{path} {said}")
    if not any(name.endswith("data.pkl") for name in names):
        raise BackboneError(f"{path} is a zip archive without a checkpoint: unpack it first")
    return PICKLE


def _unpickled(path: Path) -> Any:
    """What torch.load gives with weights_only, with stand-ins for all that it does not know."""
    try:
        with torch.serialization.safe_globals(_stand_ins(path)), open(path, "rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged archive
        raise BackboneError(
            f"{path} is not a file of plain tensors, or damaged ({type(error).__name__}): save the "
            "network's state_dict() again, with torch.save as it is or as safetensors"
        ) from error


def _stand_ins(path: Path) -> list[Any]:
    """A stand-in for each class and function that the file names and torch does not allow."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # a pickle of before torch 1.6, whose names torch does not list
        names = ["argparse.Namespace"]
    return [(_stand_in(name), name) for name in sorted(names)]


def _stand_in(name: str) -> type:
    """A class that takes whatever a pickle gives it and does nothing.

    Its instances are plain ordered dicts, which the reader fills with entries and attributes;
    those of ALOOF classes are lists that forget what they are given.
    """

    def new(cls: Any, *_: Any, **__: Any) -> Any:
        if name.startswith(ALOOF):
            return list.__new__(cls)
        held: OrderedDict[str, Any] = OrderedDict()
        vars(held)["stands_for"] = name
        return held

    def nothing(*_: Any, **__: Any) -> None:
        pass

    members = {"__new__": new, "__init__": nothing, "__setstate__": nothing}
    return type("StandIn", (list,), members)


def _tensors(content: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of all tensors in mappings and pickled modules, at any depth."""
    if isinstance(content, torch.Tensor) and name:
        yield name, content
    if not isinstance(content, Mapping) or OPTIMIZER in content or depth > DEEPEST:
        return
    for key, value in content.items():
        if isinstance(key, str):
            yield from _tensors(value, f"{name}.{key}" if name else key, depth + 1)
    for part in PARTS_OF_MODULE:
        yield from _tensors(getattr(content, part, None), name, depth + 1)


def _left(content: Any) -> dict[str, str]:
    """Names of a pickle's parts without tensors of a network, with what they are."""
    found = {}
    if hasattr(content, "stands_for"):
        found["the module"] = content.stands_for
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Mapping) and OPTIMIZER in value:
            found[str(key)] = "an optimizer's state"
        elif next(_tensors(value, str(key)), None) is None:
            found[str(key)] = getattr(value, "stands_for", type(value).__name__)
    return found


def _without_tensors(content: Any) -> str:
    """What a file without tensors holds."""
    parts = [content, *content.values()] if isinstance(content, Mapping) else [content]
    if any(isinstance(part, Mapping) and OPTIMIZER in part for part in parts):
        return "holds an optimizer's state alone; give the file with the network's weights"
    held = getattr(content, "stands_for", type(content).__name__)
    if isinstance(content, Mapping) and content:
        held = f"{held} with {', '.join(str(key) for key in list(content)[:4])}"
    return f"does not hold a state dict of plain tensors (names with tensors); it holds: {held}"


def _apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors, each in memory of its own, which safetensors needs."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        if tensor.is_quantized or tensor.layout != torch.strided:
            continue
        place = tensor.untyped_storage().data_ptr()
        if place in seen or not tensor.is_contiguous():
            tensors[name] = tensor.clone(memory_format=torch.contiguous_format)
        seen.add(place)
    return tensors
