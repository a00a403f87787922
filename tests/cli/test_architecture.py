"""The house stands: imports only point down, and the files stay small and explained."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Ground floor first; rooms of one line do not know each other. docs/architecture.md draws the same.
FLOORS = (
    ("errors",),
    ("files", "float64", "hub", "ops", "progress", "provenance", "settings"),
    ("networks", "tasks"),
    ("prompts", "label_mapping", "masking", "latency"),
    ("masks",),
    ("budgets", "training"),
    ("shrinking",),
    ("scoring",),
    ("zoo", "pruned"),
    ("runs",),
    ("recipes",),
    ("study",),
    ("report",),
    ("cli",),
)
LEVEL = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def modules():
    """(name, syntax tree) of every module of the package, the command line as pass_transfer.cli."""
    for path in sorted([*(ROOT / "pass_transfer").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts if parts[0] == "pass_transfer" else ("pass_transfer", *parts)
        yield ".".join(parts).removesuffix(".__init__"), ast.parse(path.read_text(encoding="utf-8"))


def imports(tree):
    """Names of the package's own modules that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = (
                [node.module]
                if node.module != "pass_transfer"
                else [f"pass_transfer.{alias.name}" for alias in node.names]
            )
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (
            name
            for name in names
            if name.split(".")[0] == "pass_transfer" and name != "pass_transfer.__version__"
        )


def room(name):
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


MODULES = dict(modules())


def test_every_room_has_its_floor():
    rooms = {room(name) for name in MODULES} - {""}
    assert rooms == set(LEVEL)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_only_point_down(name):
    for target in imports(MODULES[name]):
        if room(target) != room(name):
            assert room(name) != "", (
                f"{name} imports {target}; the package itself resolves its names when they are used"
            )
            assert LEVEL[room(target)] < LEVEL[room(name)], (
                f"{name} imports {target}, which is not below it"
            )


def test_the_command_line_holds_no_logic():
    for name, tree in MODULES.items():
        if room(name) == "cli" and name.rsplit(".", 1)[-1] not in ("main", "options"):
            for node in ast.walk(tree):
                assert not isinstance(node, (ast.For, ast.While, ast.Try)), (
                    f"{name} has a loop or a try; it belongs in the library"
                )


@pytest.mark.parametrize("name", sorted(MODULES))
def test_public_names_are_documented_and_files_are_small(name):
    tree = MODULES[name]
    last = max((node.end_lineno for node in tree.body), default=0)
    assert last <= 400
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            pytest.fail(
                f"line {node.lineno}: an assert; a wrong input raises an error of the project's own"
            )
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} is too long"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
