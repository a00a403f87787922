"""Where a figure comes from: commit, machine, versions."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch_pruning
import torchvision

from pass_transfer import __version__

# In the environment, where the code runs outside of its repository.
COMMIT = "PASS_TRANSFER_COMMIT"


@lru_cache  # the code that runs is the code of the start, whatever is committed later
def provenance() -> dict[str, Any]:
    """What stands beside every result that is kept."""
    return {
        "commit": _commit(),
        "machine": _machine(),
        "versions": {
            "pass_transfer": __version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "torch_pruning": torch_pruning.__version__,
            "python": platform.python_version(),
        },
    }


def _commit() -> str | None:
    if os.environ.get(COMMIT):
        return os.environ[COMMIT]
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).resolve().parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return done.stdout.strip() or None


def _machine() -> str:
    parts = [_processor(), f"{torch.get_num_threads()} of {os.cpu_count()} threads"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)


def _processor() -> str:
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return name
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, name)
