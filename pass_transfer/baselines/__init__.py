"""Channel scores by other methods, under the same groups, budgets and fine-tuning."""

from pass_transfer.baselines.forward_selection import forward_selection
from pass_transfer.baselines.magnitude import by_importance, group_l1, group_l2
from pass_transfer.baselines.random import random_scores
from pass_transfer.baselines.taylor import taylor

__all__ = ["by_importance", "forward_selection", "group_l1", "group_l2", "random_scores", "taylor"]
