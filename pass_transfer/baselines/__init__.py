"""Channel scores by other methods, under the same groups, budgets and fine-tuning."""

from pass_transfer.baselines.magnitude import group_l1
from pass_transfer.baselines.random import random_scores
from pass_transfer.baselines.taylor import taylor

__all__ = ["group_l1", "random_scores", "taylor"]
