"""One small file a method, or a family of them; each registers itself when it is imported here."""

from pass_transfer.scoring.method import METHODS
from pass_transfer.scoring.methods import (
    bee_colony,
    criteria,
    from_scratch,
    learned_scores,
    mask,
    prompt,
    selection,
    sparse_training,
)

__all__ = [
    "METHODS",
    "bee_colony",
    "criteria",
    "from_scratch",
    "learned_scores",
    "mask",
    "prompt",
    "selection",
    "sparse_training",
]
