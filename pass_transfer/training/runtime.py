"""Where the work runs and in which precision, chosen once, with the reason in words."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TypeVar

import torch

from pass_transfer.errors import UsageError
from pass_transfer.surroundings import keep_generators
from pass_transfer.training.processes import Processes, meet_processes

DEVICES = ("auto", "cpu", "cuda", "mps")
# float16 would need its loss scaled, and a score's small gradient underflows in it.
PRECISIONS = ("auto", "bf16", "no")

M = TypeVar("M", bound=torch.nn.Module)


@dataclass(frozen=True)
class Runtime:
    """Device, precision and memory format, and the processes that train together.

    Fields:
        precision: "bf16", or "no" for float32.
        reason: what was chosen and why, in words.
    """

    processes: Processes
    device: torch.device
    precision: str
    memory_format: torch.memory_format
    reason: str

    def place(self, module: M) -> M:
        """The module itself, moved to the device, in the memory format that is fastest there."""
        return module.to(self.device).to(memory_format=self.memory_format)

    def autocast(self) -> torch.autocast:
        """The mixed-precision context of this runtime."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision != "no")


def choose_runtime(device: str = "auto", precision: str = "auto") -> Runtime:
    """Pick device and precision.

    bf16 is used where the hardware multiplies it natively: there it halves the time of a
    step, elsewhere it is emulated and slower. channels_last is what oneDNN and tensor
    cores want.

    Raises:
        UsageError: a device this machine lacks, or an unknown name.
    """
    _check_device(device)
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; choose one of {', '.join(PRECISIONS)}")
    kind = _best_device() if device == "auto" else device
    if precision == "auto":
        precision, why = _native_precision(kind)
    else:
        why = "as asked"
    processes, place = meet_processes(torch.device(kind))
    keep_generators(place)
    shown = "float32" if precision == "no" else precision
    reason = f"{kind} ({_hardware(kind)}), {shown} ({why}), channels_last"
    return Runtime(processes, place, precision, torch.channels_last, reason)


def _check_device(device: str) -> None:
    if device not in DEVICES:
        raise UsageError(f"unknown device {device!r}; choose one of {', '.join(DEVICES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda': no CUDA device is visible to torch; use device 'cpu'")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device 'mps': torch sees no Apple GPU; use device 'cpu'")


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _hardware(kind: str) -> str:
    if kind == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def _native_precision(kind: str) -> tuple[str, str]:
    """The precision that a kind of device is fastest in, and why."""
    if kind == "cuda":
        if torch.cuda.is_bf16_supported():
            return "bf16", "tensor cores"
        return "no", "this GPU has no bf16 arithmetic"
    if kind == "cpu":
        flags = _cpu_flags()
        for name in ("amx_bf16", "avx512_bf16"):
            if name in flags:
                return "bf16", f"{name} found"
        return "no", "this CPU has no bf16 arithmetic"
    return "no", "the safe choice on this device"


def _cpu_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            first = next((line for line in file if line.startswith("flags")), "")
            return set(first.split())
    except OSError:
        return set()
