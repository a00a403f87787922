"""How large the small network may be: a budget, and the masks that one ranking gives within it."""

from pass_transfer.budgets import latency
from pass_transfer.budgets.budget import ROUND_TO, Budget, choose_budget
from pass_transfer.budgets.kinds import (
    BUDGET_KINDS,
    BudgetKind,
    CountedKind,
    CutNetwork,
    register_budget_kind,
)
from pass_transfer.budgets.ranking import RankedCuts, top_share
from pass_transfer.budgets.sparsity import Sparsity

__all__ = [
    "BUDGET_KINDS",
    "ROUND_TO",
    "Budget",
    "BudgetKind",
    "CountedKind",
    "CutNetwork",
    "RankedCuts",
    "Sparsity",
    "choose_budget",
    "latency",
    "register_budget_kind",
    "top_share",
]
