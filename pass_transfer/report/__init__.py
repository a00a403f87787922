"""Results for people: tables on the terminal, and pictures."""

from pass_transfer.report.bench import bench_table
from pass_transfer.report.data import data_table
from pass_transfer.report.lists import cache_table, conversion, predictions, pushed
from pass_transfer.report.preview import check_picture, preview_picture, preview_table
from pass_transfer.report.run_report import write_report
from pass_transfer.report.study_report import study_report
from pass_transfer.report.study_tables import estimate_table
from pass_transfer.report.table import summary

__all__ = [
    "bench_table",
    "cache_table",
    "check_picture",
    "conversion",
    "data_table",
    "estimate_table",
    "predictions",
    "preview_picture",
    "preview_table",
    "pushed",
    "study_report",
    "summary",
    "write_report",
]
