"""The house rules that can be counted: imports point down; files, functions, lines are short."""

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Ground floor first; rooms of one line do not know each other. docs/architecture.md draws the same.
FLOORS = (
    ("errors", "first_process", "python_state"),
    ("arguments", "files", "float64", "memory", "ops", "progress", "provenance")
    + ("random_streams", "settings", "surroundings"),
    ("hub", "preprocessing"),
    ("networks", "tasks"),
    ("prompts", "label_mapping", "masking", "latency"),
    ("masks", "weight_masks"),
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
LINES, COLUMNS, FUNCTION_LINES, PARAMETERS = 350, 100, 60, 8
COMMANDS = ("cli.main", "cli.options", "cli.words")  # of the command line, what is no verb


def tracked(*patterns):
    """Files of these patterns that git knows or could know, relative to the root."""
    command = ["git", "ls-files", "-co", "--exclude-standard", *patterns]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted({line for line in done.stdout.splitlines() if (ROOT / line).is_file()})


def text(path):
    return (ROOT / path).read_text(encoding="utf-8")


def modules():
    """Name and syntax tree of every module, the command line as pass_transfer.cli."""
    for path in tracked("pass_transfer/*.py", "cli/*.py"):
        parts = Path(path).with_suffix("").parts
        parts = parts if parts[0] == "pass_transfer" else ("pass_transfer", *parts)
        yield ".".join(parts).removesuffix(".__init__"), ast.parse(text(path))


MODULES = dict(modules())


def imports(tree):
    """Names of the package's own modules that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in inside]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            own = name.split(".")[0] == "pass_transfer"
            if own and name != "pass_transfer":  # its version, which needs no room
                yield name


def room(name):
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_every_room_has_its_floor():
    assert {room(name) for name in MODULES} - {""} == set(LEVEL)


def test_imports_are_absolute_and_only_point_down():
    wrong = []
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                wrong.append(f"{name} has a relative import")
        for target in imports(tree):
            below = LEVEL[room(target)] < LEVEL.get(room(name), 1)  # the package: from the ground
            if room(target) != room(name) and not below:
                wrong.append(f"{name} imports {target}, which is not below it")
    assert not wrong


def test_modules_of_one_room_import_each_other_in_no_circle():
    circles = []
    arrows = {name: {t for t in imports(tree) if t in MODULES} for name, tree in MODULES.items()}
    for start in MODULES:
        seen, waiting = set(), set(arrows[start])
        while waiting:
            name = waiting.pop()
            seen.add(name)
            waiting |= arrows[name] - seen
        circles += [start] if start in seen else []
    assert not circles


def test_the_command_line_holds_no_logic():
    wrong = []
    for name, tree in MODULES.items():
        if room(name) == "cli" and not name.endswith(COMMANDS):
            for node in ast.walk(tree):
                if isinstance(node, (ast.For, ast.While, ast.Try)):
                    wrong.append(f"{name}:{node.lineno} has a loop or a try")
    assert not wrong


def test_functions_are_short_take_few_arguments_and_assert_nothing():
    wrong = []
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                wrong.append(f"{name}:{node.lineno} asserts; a wrong input raises our own error")
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                wrong += odd_function(name, node)
    assert not wrong


def odd_function(name, node):
    """What is wrong with a function; a verb takes as many options as it has."""
    if room(name) == "cli":
        return []
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    count = len([argument for argument in arguments if argument.arg not in ("self", "cls")])
    length = node.end_lineno - node.lineno + 1
    said = [f"{name}.{node.name} takes {count} arguments"] if count > PARAMETERS else []
    return said + ([f"{name}.{node.name} has {length} lines"] if length > FUNCTION_LINES else [])


def test_files_and_lines_are_short():
    wrong = []
    code = ("pass_transfer/*.py", "cli/*.py", "csrc/*")
    for path in tracked(*code):
        count = len(text(path).splitlines())
        wrong += [f"{path} has {count} lines"] if count > LINES else []
    others = ("tests/*.py", "benchmarks/*.py", "tools/*.py", "examples/*.py", "setup.py")
    for path in tracked(*code, *others):
        for number, line in enumerate(text(path).splitlines(), 1):
            wrong += [f"{path}:{number} is too wide"] if len(line) > COLUMNS else []
    assert not wrong


COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
BEFORE_A_BODY = re.compile(r"\s*(const\s*|noexcept\s*|override\s*|->[^{;()]*)*\{")
KEYWORDS = {"if", "for", "while", "switch", "catch"}


def closing(code, start):
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for place in range(start, len(code)):
        depth += (code[place] in "(<[{") - (code[place] in ")>]}")
        if depth == 0:
            return place
    return len(code)


def parameters(between):
    """How many parameters stand between the brackets of a function in C++."""
    depth, count = 0, 1 if between.strip() else 0
    for letter in between:
        depth += (letter in "(<[{") - (letter in ")>]}")
        count += letter == "," and depth == 0
    return count


def functions_of(code):
    """(name, number of parameters) of the functions that a source in C++ defines."""
    code = COMMENT.sub(" ", code)
    for found in re.finditer(r"\b([A-Za-z_]\w*)\s*\(", code):
        end = closing(code, found.end() - 1)
        if found[1] not in KEYWORDS and BEFORE_A_BODY.match(code, end + 1):
            yield found[1], parameters(code[found.end() : end])


def test_compiled_functions_take_few_parameters():
    source = "int f(A<int, 3> a, int b) { if (a) {} }  // g(a, b) {\nauto h() const -> int {}"
    assert list(functions_of(source)) == [("f", 2), ("h", 0)]
    wrong, seen = [], 0
    for path in tracked("csrc/*.cpp", "csrc/*.cu", "csrc/*.h"):
        for name, count in functions_of(text(path)):
            seen += 1
            wrong += [f"{path}: {name} takes {count} parameters"] if count > PARAMETERS else []
    assert seen > 100 and not wrong
