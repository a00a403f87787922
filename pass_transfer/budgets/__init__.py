"""How large the small network may be: a budget, and the masks that one ranking gives within it."""

from pass_transfer.budgets.budget import ROUND_TO, Budget
from pass_transfer.budgets.kinds import BudgetKind, CountedKind, CutNetwork
from pass_transfer.budgets.ranking import RankedCuts, top_share
from pass_transfer.budgets.registry import BUDGET_KINDS, register_budget_kind

__all__ = [
    "BUDGET_KINDS",
    "ROUND_TO",
    "Budget",
    "BudgetKind",
    "CountedKind",
    "CutNetwork",
    "RankedCuts",
    "register_budget_kind",
    "top_share",
]
