"""The script and the notebook of examples/ run, in a folder whose zoo holds a small entry."""

import json
import runpy
import shutil
from pathlib import Path

import pytest

from pass_transfer import load_pruned

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


@pytest.fixture
def here(entry, tmp_path, monkeypatch):
    """A folder of one's own, with the entry that the examples name."""
    shutil.copytree(entry, tmp_path / "zoo" / "r18_tinyimnet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_script(monkeypatch, *arguments):
    path = EXAMPLES / "own_photos.py"
    monkeypatch.setattr("sys.argv", [str(path), *map(str, arguments)])
    runpy.run_path(str(path), run_name="__main__")


def code_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_own_photos_become_a_small_network(here, photos, monkeypatch, capsys):
    photos(here / "photos", count=12)
    run_script(monkeypatch, "photos", "--quick", "--out", "runs/mine")
    printed = capsys.readouterr().out
    assert "MACs: " in printed and "photos/cat/0.png: " in printed
    assert load_pruned("runs/mine").class_names == ("cat", "dog")
    assert Path("runs/mine/small.onnx").is_file()


def test_without_photos_the_script_takes_the_digits(here, monkeypatch, capsys):
    run_script(monkeypatch)
    assert "top-1 on " in capsys.readouterr().out
    assert len(load_pruned("runs/own_photos").class_names) == 10


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_cells_of_a_notebook_run_in_order(path, here):
    namespace = {}
    for number, cell in enumerate(code_cells(path)):
        exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), namespace)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_committed_without_outputs(path):
    assert code_cells(path)
    for cell in code_cells(path):
        assert (cell["outputs"], cell["execution_count"]) == ([], None)
