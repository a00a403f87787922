"""Results for people: the table on the terminal."""

from pass_transfer.report.table import summary

__all__ = ["summary"]
