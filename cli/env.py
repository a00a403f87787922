"""The verb env."""

from __future__ import annotations

import json
import platform

from pass_transfer.cli import options


def env(as_json: options.Json = False) -> None:
    """Versions, device and kernels that are used here.

    And why these.

    Example: pass-transfer env
    """
    import torch
    import torchvision

    from pass_transfer import __version__
    from pass_transfer.ops import kernels
    from pass_transfer.tasks.cache import cache_folder
    from pass_transfer.training import choose_runtime

    facts = {
        "pass_transfer": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "runtime": choose_runtime().reason,
        "kernels": kernels.chosen().reason,
        "cache": str(cache_folder()),
    }
    print(
        json.dumps(facts)
        if as_json
        else "\n".join(f"{name}: {value}" for name, value in facts.items())
    )
