"""Prune a pretrained vision network for your own images, by transfer from a hypernetwork.

    import pass_transfer as pt

    hypernet = pt.load_hypernet("zoo/r18_tinyimnet")
    masks = hypernet.generate_masks(hypernet.prompt(), macs=0.5)
    small = masks.apply(hypernet.backbone())

Names are imported when they are first used, so that importing the package is fast.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from pass_transfer.python_state import python_state_kept

__version__ = "0.2.0.dev0"

_HOMES = {
    "AdaptConfig": "pass_transfer.recipes.adapt_config",
    "Budget": "pass_transfer.budgets",
    "ChannelMasks": "pass_transfer.masks",
    "PassTransferError": "pass_transfer.errors",
    "Preprocessing": "pass_transfer.preprocessing",
    "PretrainedHypernet": "pass_transfer.scoring.pretrained",
    "PrunedModel": "pass_transfer.pruned",
    "Sparsity": "pass_transfer.budgets",
    "WeightMasks": "pass_transfer.weight_masks",
    "adapt": "pass_transfer.recipes.adapt",
    "load_hypernet": "pass_transfer.zoo.entry",
    "load_pruned": "pass_transfer.pruned",
    "load_task": "pass_transfer.tasks",
    "on_task": "pass_transfer.scoring.task_prior",
    "own_backbone": "pass_transfer.scoring.own_backbone",
    "prune": "pass_transfer.recipes.prune",
    "read_image": "pass_transfer.tasks",
    "register_network": "pass_transfer.networks",
    "tune_prompt": "pass_transfer.scoring.prompt_tuning",
    "write_report": "pass_transfer.report",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pass_transfer' has no attribute {name!r}")
    home = _HOMES[name]
    if home not in sys.modules:
        with python_state_kept():
            importlib.import_module(home)
    return getattr(sys.modules[home], name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
