"""One small file a method, or a family of them; each registers itself when it is imported here."""

from pass_transfer.scoring.method import METHODS, METHODS_OF, WEIGHT_METHODS
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
    weight_criteria,
    weight_rounds,
    weight_scores,
    weight_transfer,
)

__all__ = [
    "METHODS",
    "METHODS_OF",
    "WEIGHT_METHODS",
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
    "weight_criteria",
    "weight_rounds",
    "weight_scores",
    "weight_transfer",
]
