"""One small file a method, or a family of them; each registers itself when it is imported here."""

from pass_transfer.scoring.method import METHODS
from pass_transfer.scoring.methods import (
    activations,
    bee_colony,
    criteria,
    from_scratch,
    fused,
    learned_scores,
    mask,
    nearest_tasks,
    prompt,
    selection,
    sparse_training,
)

__all__ = [
    "METHODS",
    "activations",
    "bee_colony",
    "criteria",
    "from_scratch",
    "fused",
    "learned_scores",
    "mask",
    "nearest_tasks",
    "prompt",
    "selection",
    "sparse_training",
]
