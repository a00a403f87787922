"""Which implementation of the operators runs: compiled for CUDA or the CPU, or plain torch.

PASS_TRANSFER_KERNELS=auto|cpp|cuda|reference in the environment forces one; it is read
when the first operator runs.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from types import ModuleType

import torch

from pass_transfer.errors import KernelError
from pass_transfer.ops import reference

VARIABLE = "PASS_TRANSFER_KERNELS"
CHOICES = ("auto", "cpp", "cuda", "reference")


@dataclass(frozen=True)
class Kernels:
    """What was chosen.

    Fields:
        devices: device types on which the compiled operators run.
        reason: in words.
    """

    devices: tuple[str, ...]
    reason: str


@functools.cache
def chosen() -> Kernels:
    """The choice of this process.

    Raises KernelError if the environment forces kernels that are not there.
    """
    asked = os.environ.get(VARIABLE, "auto") or "auto"
    if asked not in CHOICES:
        raise KernelError(f"{VARIABLE} is {asked!r}; choose one of {', '.join(CHOICES)}")
    if asked == "reference":
        return Kernels((), f"reference (plain torch), as {VARIABLE} asks")
    try:
        from pass_transfer.ops import compiled
    except ImportError as error:
        if asked != "auto":
            raise KernelError(f"{VARIABLE} is {asked}, but {_first_line(error)}") from error
        return Kernels((), f"reference (plain torch): {_first_line(error)}")
    if asked == "cuda" and not compiled.HAS_CUDA:
        raise KernelError(f"{VARIABLE} is cuda, but the extension was built without CUDA")
    devices = ("cpu",) if asked == "cpp" or not compiled.HAS_CUDA else ("cpu", "cuda")
    what = "compiled for the CPU"
    if "cuda" in devices:
        what += " and CUDA"
    elif torch.cuda.is_available():
        what += ", plain torch on a GPU"
    return Kernels(devices, what if asked == "auto" else f"{what}, as {VARIABLE} asks")


def compiled_for(x: torch.Tensor) -> bool:
    """Whether compiled operators run on a tensor's device."""
    return x.device.type in chosen().devices


def module(x: torch.Tensor) -> ModuleType:
    """The module whose operators run on a tensor's device."""
    if not compiled_for(x):
        return reference
    from pass_transfer.ops import compiled

    return compiled


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
