"""A checkpoint as it is found to safetensors: its tensors alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pass_transfer.arguments import check_path, expanded
from pass_transfer.errors import BackboneError, StorageError, UsageError
from pass_transfer.files import write_tensors
from pass_transfer.networks.checkpoints import open_checkpoint
from pass_transfer.surroundings import as_guest

ENDING = ".safetensors"


@as_guest
def convert(old: str | Path, new: str | Path, *, force: bool = False) -> dict[str, Any]:
    """Write the tensors of a checkpoint as safetensors; no code of the file runs.

    Args:
        old: a pickle of torch.save, or a safetensors file; see open_checkpoint.
        new: the file to write, whose name ends in .safetensors.
        force: whether a file that is there is replaced.

    Returns:
        "old", "new", "tensors" and "numbers" (how many), "dtypes", and "left": the names of what
        else the file holds, with what that is.

    Raises:
        UsageError: a new name of another ending, or the old one.
        BackboneError: no checkpoint, or tensors that safetensors cannot hold.
        StorageError: a file that is there already, damaged, or cannot be written.
    """
    for name, path in (("old", old), ("new", new)):
        check_path(name, path)
    source, target = expanded(old), expanded(new)
    if target.suffix != ENDING:
        raise UsageError(f"{new} is to hold safetensors; give it the ending {ENDING}")
    if target.exists() and source.exists() and target.samefile(source):
        raise UsageError(f"{new} is the file that is converted; give another name")
    if target.exists() and not force:
        raise StorageError(f"{new} exists; replace it (force), or give another name")
    found = open_checkpoint(source)
    for name, tensor in found.tensors.items():
        if tensor.is_quantized or tensor.layout != torch.strided:
            kind = "quantised" if tensor.is_quantized else "sparse"
            raise BackboneError(f"{old}: the tensor {name} is {kind}; safetensors holds none such")
    write_tensors(target, found.tensors)
    tensors = found.tensors.values()
    return {
        "old": str(old),
        "new": str(new),
        "tensors": len(tensors),
        "numbers": sum(tensor.numel() for tensor in tensors),
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors}),
        "left": found.left,
    }
