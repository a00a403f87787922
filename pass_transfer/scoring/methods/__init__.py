"""One small file a method, or a family of them; each registers itself when it is imported here."""

from pass_transfer.scoring.method import METHODS, METHODS_OF, WEIGHT_METHODS
from pass_transfer.scoring.methods import (
    bee_colony,
    criteria,
    from_scratch,
    learned_scores,
    mask,
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
    "bee_colony",
    "criteria",
    "from_scratch",
    "learned_scores",
    "mask",
    "prompt",
    "selection",
    "sparse_training",
    "weight_criteria",
    "weight_rounds",
    "weight_scores",
    "weight_transfer",
]
