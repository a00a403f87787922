"""Where a figure comes from: command, commit, machine, versions."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import torch
import torchvision

ROOT = Path(__file__).resolve().parent.parent


def provenance() -> dict[str, str]:
    """What stands beside every committed result."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    return {"command": " ".join(["python", *sys.argv]), "commit": commit, "machine": _machine(), "python": platform.python_version(),
            "torch": torch.__version__, "torchvision": torchvision.__version__}


def _machine() -> str:
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{model}, {torch.get_num_threads()} threads" + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "")
