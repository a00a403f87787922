"""docs/results.md holds what its commands print from the raw JSON, and no other figure."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = runpy.run_path(str(ROOT / "tools" / "refresh_results.py"))
TEXT = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- printed -->\n(.*?)<!-- end -->", re.DOTALL)


@pytest.fixture
def run(call, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)

    def report(arguments):
        code, out, err = call(*arguments, "--out", tmp_path / "report")
        assert code == 0, err
        return out

    return report


def test_the_tables_are_those_that_the_commands_print(run):
    assert len(BLOCK.findall(TEXT)) == TEXT.count("    pass-transfer study report ") >= 1, (
        "a block below every command"
    )
    assert TOOL["refreshed"](TEXT, run) == TEXT, "write it again: python tools/refresh_results.py"


def test_a_table_that_was_altered_is_noticed(run):
    row = next(line for line in BLOCK.findall(TEXT)[0].splitlines() if re.search(r"\| \d", line))
    assert TOOL["refreshed"](TEXT.replace(row, re.sub(r"\d", "7", row)), run) == TEXT


def test_every_figure_of_the_prose_is_in_a_table():
    printed, prose = " ".join(BLOCK.findall(TEXT)), TOOL["PICTURE"].sub("", BLOCK.sub("", TEXT))
    for figure in re.findall(r"(?<![\w.])\d+\.\d+(?![\w.]*\d)", prose):
        assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d])", printed), (
            f"no command prints {figure}"
        )


def test_every_picture_is_there():
    pictures = TOOL["PICTURE"].findall(TEXT)
    assert {
        path.relative_to(ROOT / "docs" / "results").as_posix()
        for path in (ROOT / "docs" / "results").rglob("*.png")
    } == {"/".join(found) for found in pictures}
    for study, name in pictures:
        assert (ROOT / "docs" / "results" / study / name).read_bytes().startswith(b"\x89PNG")
