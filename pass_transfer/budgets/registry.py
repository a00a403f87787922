"""The kinds of budget by name. A new kind is a class of its own and one line here."""

from __future__ import annotations

from pass_transfer.budgets.kinds import BudgetKind, DensityKind, MacsKind, ParamsKind
from pass_transfer.budgets.latency import LatencyKind

BUDGET_KINDS: dict[str, BudgetKind] = {}


def register_budget_kind(kind: BudgetKind) -> None:
    """Make a kind of budget known by its name."""
    BUDGET_KINDS[kind.name] = kind


for _kind in (MacsKind(), ParamsKind(), DensityKind(), LatencyKind()):
    register_budget_kind(_kind)
