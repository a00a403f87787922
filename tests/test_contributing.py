"""The recipes of CONTRIBUTING.md are followed to the letter, each in a copy of the sources."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^ *```text\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


def blocks(title):
    """The fenced blocks of a recipe: the new files by path, and the lines that go elsewhere."""
    recipe = TEXT.split(f"### {title}\n")[1].split("\n##")[0]
    files, lines = {}, []
    for block in map(textwrap.dedent, FENCE.findall(recipe)):
        first, _, rest = block.partition("\n")
        if first.startswith("# "):
            files[first.removeprefix("# ")] = rest
        else:
            lines.append(block)
    return files, lines


@pytest.fixture
def sources(tmp_path):
    """A copy of the sources that Python finds first, with the command line inside the package."""
    package = tmp_path / "pass_transfer"
    unwanted = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "pass_transfer", package, ignore=unwanted)
    shutil.copytree(ROOT / "cli", package / "cli", ignore=unwanted)
    (package / "zoo_data").mkdir()
    (package / "zoo_data" / "__init__.py").touch()
    return tmp_path


@pytest.fixture
def follow(sources):
    """(recipe, edits) -> writes its files and edits; at most three files are touched."""

    def place(path):
        return sources / (f"pass_transfer/{path}" if path.startswith("cli/") else path)

    def run(title, edits):
        files, _ = blocks(title)
        assert len(files) + len(edits) <= 3
        for path, content in files.items():
            place(path).write_text(content, encoding="utf-8")
        for path, edit in edits.items():
            assert path in TEXT, "the recipe names the file"
            before = place(path).read_text(encoding="utf-8")
            place(path).write_text(edit(before), encoding="utf-8")

    return run


@pytest.fixture
def python(sources):
    """Code -> what it prints, with the copy in place of the package."""

    def run(code, *arguments):
        environment = os.environ | {"PYTHONPATH": str(sources), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
        done = subprocess.run(command, cwd=sources, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def appended(lines):
    return lambda text: f"{text}\n{lines}"


@pytest.mark.slow
def test_a_network(follow, python):
    builder = "\nclass MyNet(nn.Sequential):\n    def __init__(self, classes):\n"
    builder += "        super().__init__(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3),\n"
    builder += "            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes))\n\n"
    line = blocks("A network")[1][0]
    follow("A network", {"pass_transfer/networks/builders.py": appended(builder + line)})
    code = """
    from pass_transfer.networks import BackboneSpec, build_backbone, find_groups
    print(sorted(find_groups(build_backbone(BackboneSpec("my_net", 4, 16)), 16)))
    """
    assert python(code) == "['0', '2']"


@pytest.mark.slow
def test_a_layer_kind(follow, python):
    line = blocks("A layer kind")[1][0]
    follow("A layer kind", {"pass_transfer/networks/layers/__init__.py": appended(line)})
    code = """
    import torch
    from torch import nn
    from pass_transfer.masking import masked
    from pass_transfer.masks import ChannelMasks
    from pass_transfer.networks import CostTable, count_macs, count_parameters, find_groups
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 6, 3),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).double().eval()
    groups = find_groups(net, 16)
    masks = ChannelMasks({n: torch.arange(g.width) % 2 == 0 for n, g in groups.items()})
    x, small = torch.rand(2, 3, 16, 16).double(), masks.apply(net)
    with masked(net, groups, masks):
        expected = net(x)
    assert torch.allclose(small(x), expected, atol=1e-10) and small[1].num_parameters == 4
    table = CostTable(net, groups, 16)
    assert table.macs(masks.kept) == count_macs(small, 16)
    assert table.parameters(masks.kept) == count_parameters(small)
    print("cut")
    """
    assert python(code) == "cut"


@pytest.mark.slow
def test_a_method(follow, python, entry, few_photos, tmp_path):
    def listed(text):
        return text.replace("    criteria,\n", "    criteria,\n    depth,\n", 1)

    edits = {
        "pass_transfer/scoring/methods/__init__.py": listed,
        "cli/options.py": lambda text: text.replace("depgraph, abc.", "depgraph, abc, depth."),
    }
    follow("A method", edits)
    code = """
    import sys
    from pass_transfer.cli.main import run
    entry, task, out = sys.argv[1:]
    sys.exit(run(["adapt", "--hypernet", entry, "--task", task, "--out", out, "--method", "depth",
                  "--set", "slope=2", "--epochs", "1", "--batch-size", "8", "--device", "cpu",
                  "--no-reconstruct", "--no-report"]))
    """
    said = " ".join(python(code, entry, few_photos, tmp_path / "run").split())
    assert "method depth" in said


@pytest.mark.slow
def test_a_kind_of_budget(follow, python, entry):
    def imported(text):
        line = "from pass_transfer.budgets import latency"
        return text.replace(line, f"{line}, widest")

    def optional(text):
        option = blocks("A kind of budget")[1][0]
        return text.replace("HOW: dict", f"{option}HOW: dict", 1)

    follow(
        "A kind of budget",
        {"pass_transfer/budgets/__init__.py": imported, "cli/options.py": optional},
    )
    code = """
    import json, sys
    from pass_transfer.cli.main import run
    sys.exit(run(["inspect", "--hypernet", sys.argv[1], "--widest", "0.5", "--no-latency",
                  "--json"]))
    """
    found = python(code, entry)
    kept = [int(count) for count in re.findall(r'"kept": (\d+)', found)]
    assert 0 < max(kept) <= 256


@pytest.mark.slow
def test_a_task_source(follow, python):
    line = blocks("A task source")[1][0]

    def listed(text):
        imported, table = line.splitlines()
        text = text.replace("from pass_transfer.tasks.task import", f"{imported}\n\\g", 1)
        text = text.replace("\\g", "from pass_transfer.tasks.task import")
        return text.replace("def task_names", f"{table}\n\n\ndef task_names", 1)

    follow("A task source", {"pass_transfer/tasks/registry.py": listed})
    code = """
    from pass_transfer.tasks import load_task
    task = load_task("stripes", 8)
    print(task.class_names, len(task.test))
    """
    assert python(code) == "('upright', 'lying') 40"


@pytest.mark.slow
def test_a_verb(follow, python):
    def known(text):
        line = blocks("A verb")[1][0]
        return text.replace("\ndef main(", f"\n{line}\n\ndef main(", 1)

    follow("A verb", {"cli/main.py": known})
    code = """
    import sys
    from pass_transfer.cli.main import run
    sys.exit(run(["count", sys.argv[1]]))
    """
    assert python(code, ROOT / "tests" / "golden" / "0.1.0" / "run") == "136954"
