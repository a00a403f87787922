"""docs/kernels.md holds the tables that the benchmark prints from the raw JSON."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_table_is_the_one_that_the_command_prints(device, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "argv", ["search_step.py", "--show", "--device", device])
    runpy.run_path("benchmarks/search_step.py", run_name="__main__")
    printed = capsys.readouterr().out.strip()
    assert printed.count("\n") >= 3
    assert f"    python benchmarks/search_step.py --show --device {device}\n\n{printed}\n\n" in TEXT
