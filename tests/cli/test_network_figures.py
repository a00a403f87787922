"""docs/networks.md holds the table that the benchmark prints from the raw JSON."""

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")


def test_the_table_is_the_one_that_the_command_prints(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "argv", ["networks.py", "--show"])
    runpy.run_path("benchmarks/networks.py", run_name="__main__")
    assert f"<!-- printed -->\n{capsys.readouterr().out}<!-- end -->" in TEXT
