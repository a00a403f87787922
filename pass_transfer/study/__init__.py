"""The study: methods, tasks, budgets and seeds under one protocol, as one JSON file a cell."""

from pass_transfer.study.estimate import estimate
from pass_transfer.study.plan import Cell, Study
from pass_transfer.study.reader import load_study
from pass_transfer.study.run import run_study
from pass_transfer.study.store import read_cells
from pass_transfer.study.summary import Gains, Row, comparable, gains, rows, shared_channels

__all__ = [
    "Cell",
    "Gains",
    "Row",
    "Study",
    "comparable",
    "estimate",
    "gains",
    "load_study",
    "read_cells",
    "rows",
    "run_study",
    "shared_channels",
]
