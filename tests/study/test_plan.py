"""Study files: what is wrong is refused at once, by file and line."""

import dataclasses
import itertools

import pytest

from pass_transfer.errors import UsageError
from pass_transfer.scoring.registry import METHODS, choose_method
from pass_transfer.study import Cell, load_study
from pass_transfer.study.tasks import StudyTask

GOOD = """\
hypernet: zoo/r18_tinyimnet
tasks:
  cifar100: data/c100
  digits:
methods:
  random:
  prompt:
    steps: 3
budgets: [0.5, 0.3]
seeds: [0, 1]
epochs: 2
out: results/core
"""


def write(tmp_path, text):
    path = tmp_path / "core.yaml"
    path.write_text(text)
    return path


def test_a_study_is_all_its_combinations_seed_by_seed(tmp_path):
    study = load_study(write(tmp_path, GOOD))
    assert {name: task.data for name, task in study.tasks.items()} == {
        "cifar100": "data/c100",
        "digits": None,
    }
    assert study.methods == {"random": {}, "prompt": {"steps": 3}}
    assert (study.budgets, study.seeds) == ((0.5, 0.3), (0, 1))
    assert (study.epochs, str(study.out)) == (2, "results/core")
    cells = study.cells()
    assert len(cells) == len(set(cells)) == len({cell.name for cell in cells}) == 16
    assert [cell.seed for cell in cells] == [0] * 8 + [1] * 8
    assert cells[0] == Cell("cifar100", "random", 0.5, 0)


def test_plain_lists_and_single_values_do(tmp_path):
    text = "tasks: [digits]\nmethods: [random, group_l1]\nbudgets: 0.5\nseeds: 3\n"
    study = load_study(write(tmp_path, text))
    assert [cell.name for cell in study.cells()] == ["digits-0.5-random-3", "digits-0.5-group_l1-3"]
    assert (study.epochs, study.train_images, study.round_to) == (1, None, 1)
    assert (study.hypernet, str(study.out)) == ("zoo/r18_tinyimnet", "studies/core")


DEAF = """\
  deaf:
    method: pass_from_scratch
    uses_prompt: false
    steps: 2"""


def test_a_method_may_come_in_variants(tmp_path):
    study = load_study(write(tmp_path, GOOD.replace("  random:", DEAF)))
    chosen = choose_method("deaf", study.methods["deaf"])
    assert chosen.method == METHODS["pass_from_scratch"]
    assert chosen.settings.steps == 2 and not chosen.settings.shape().uses_prompt
    known = study.identity(study.cells()[0])["settings"]
    own = {"method": "pass_from_scratch", "uniform": False, "coupling": "grouped"}
    assert known == own | dataclasses.asdict(chosen.settings)
    assert known["images"] == 2048


def test_a_study_of_version_0_1_is_still_read_as_it_was_meant(tmp_path):
    old = GOOD.replace("  prompt:", "  transfer_prompt:")
    old = old.replace("  random:", DEAF.replace("uses_prompt", "hears_prompt"))
    study = load_study(write(tmp_path, old))
    deaf, _, tuned = study.cells()[:3]
    assert not study.identity(deaf)["settings"]["uses_prompt"]
    assert tuned.name == "cifar100-0.5-transfer_prompt-0"
    settings = study.identity(tuned)["settings"]
    assert (settings["method"], settings["steps"]) == ("prompt", 3)
    assert (settings["prior"], settings["deploy_prompt"]) == ("source", False)


FEW = """\
  near:
    task: cifar100
    data: data/c100
    images_per_class: [2, 50, all]
    epochs: [0, 20]"""


def test_a_task_may_have_several_numbers_of_images_and_of_epochs(tmp_path):
    study = load_study(write(tmp_path, GOOD.replace("  cifar100: data/c100", FEW)))
    names = [f"near-{a}-{b}-epochs" for a in ("2-a-class", "50-a-class", "all") for b in (0, 20)]
    assert list(study.tasks) == [*names, "digits"]
    near = study.tasks["near-50-a-class-20-epochs"]
    assert (near.name, near.data, near.family) == ("cifar100", "data/c100", "near")
    assert (near.images_per_class, near.epochs) == (50, 20)
    assert study.tasks["near-all-0-epochs"].images_per_class is None
    cells = study.cells()
    assert len(cells) == len(set(cells)) == 7 * 2 * 2 * 2
    known = study.identity(cells[0])
    assert known["task"] == "near-2-a-class-0-epochs" and known["of_task"] == "cifar100"
    assert (known["images_per_class"], known["epochs"]) == (2, 0)


def test_tasks_that_differ_in_epochs_alone_share_a_search_and_stand_together(tmp_path):
    study = load_study(write(tmp_path, GOOD.replace("  cifar100: data/c100", FEW)))
    found = [study.search_of(cell) for cell in study.cells()]
    runs = [key for key, _ in itertools.groupby((c.task, c.method, c.seed) for c in found)]
    assert len(runs) == len(set(runs)) == 4 * 2 * 2
    assert {c.task for c in found} == {"near-2-a-class", "near-50-a-class", "near-all", "digits"}


def test_tasks_in_python_have_searches_of_their_own(tmp_path):
    study = load_study(write(tmp_path, GOOD))
    own = dataclasses.replace(study, tasks={"a": StudyTask("digits"), "b": StudyTask("digits")})
    assert {own.search_of(cell).task for cell in own.cells()} == {"a", "b"}
    assert len(own.cells()) == len(study.cells())


def test_a_single_number_needs_no_name_of_its_own(tmp_path):
    text = GOOD.replace("data/c100", "{data: data/c100, images_per_class: 10}")
    study = load_study(write(tmp_path, text + "measuring: fixed\n"))
    assert study.tasks["cifar100"].images_per_class == 10
    known = study.identity(study.cells()[0])
    assert known["images_per_class"] == 10 and known["epochs"] == 2
    assert known["measuring"] == study.measuring == "fixed" and "of_task" not in known


def test_what_channels_are_rounded_to_decides_a_cell(tmp_path):
    study = load_study(write(tmp_path, GOOD + "round_to: 8\n"))
    assert study.round_to == 8 and study.identity(study.cells()[0])["round_to"] == 8


@pytest.mark.parametrize(
    "old, new, line, why",
    [
        ("  random:", "  ranbom:", 6, "unknown method 'ranbom'"),
        ("  digits:", "  digitz:", 4, "Did you mean digits"),
        ("0.3]", "1.3]", 9, "budget 1.3"),
        ("0.3]", "0]", 9, "budget 0"),
        ("0.3]", "-0.5]", 9, "budget -0.5"),
        ("0.3]", "yes]", 9, "budget True"),
        ("0.3]", ".nan]", 9, "budget nan"),
        ("[0.5, 0.3]", "[]", 9, "at least one"),
        ("[0.5, 0.3]", "[0.5, 0.5]", 9, "every value once"),
        ("[0, 1]", "[0, -1]", 10, "seed is -1"),
        ("[0, 1]", "[0, a]", 10, "seed is 'a'"),
        ("epochs: 2", "epochs: 0", 11, "epochs is 0"),
        ("epochs: 2", "reconstruct: 2", 11, "reconstruct is 2"),
        ("epochs: 2", "round_to: 0", 11, "round_to is 0"),
        ("epochs: 2", "epoch: 2", 11, "unknown field 'epoch'"),
        ("    steps: 3", "    steps: many", 8, "steps is 'many'"),
        ("    steps: 3", "    step: 3", 8, "unknown setting 'step'"),
        ("    steps: 3", "    steps: -1", 8, "setting steps is -1"),
        ("  random:", "  random:\n    uniform: 1", 7, "uniform is 1"),
        ("  random:", "  random:\n    coupling: loose", 7, "coupling is 'loose'"),
        (
            "  random:",
            "  mine:\n    method: slim\n    coupling: independent",
            8,
            "slim cannot score",
        ),
        ("  random:", "  mine:\n    method: ranbom", 7, "unknown method 'ranbom'"),
        ("  random:", "  random:\n    method: group_l1", 7, "another name"),
        ("  random:", "  my/own:\n    method: random", 6, "no name of a method"),
        (
            "  random:",
            "  mine:\n    method: pass_from_scratch\n    core: gru",
            8,
            "lstm, conv, mlp",
        ),
        (
            "  random:",
            "  mine:\n    method: pass_from_scratch\n    uses_prompt: 0",
            8,
            "uses_prompt is 0",
        ),
        ("  random:", "  random: fast", 6, "given for random"),
        ("  random:", "  random:\n  random:", 7, "given twice"),
        ("  random:", "  random:\n    method: [random]", 7, "unknown method ['random']"),
        ("out: results/core", "out: 2024-13-01", 12, "cannot be read"),
        ("methods:\n", "methods: {\n", 12, "not YAML"),
        ("epochs: 2", "epochs: \x01", 11, "not YAML"),
        ("    steps: 3", "    steps: 3\n    steps: 4", 9, "'steps' is given twice"),
        ("[0.5, 0.3]", "[[0.5]]", 9, "budget [0.5]"),
        ("[0.5, 0.3]", "[!!set {a}]", 9, "budget {'a'}"),
        ("[0.5, 0.3]", "[0.3333331, 0.3333332]", 9, "every value once"),
        ("[0, 1]", "[1, 1]", 10, "every value once"),
        ("out: results/core", "out:", 12, "out is None"),
        ("out: results/core", "out: [a]", 12, "out is ['a']"),
        ("data/c100", "{a: 1}", 3, "unknown field 'a'; a task has task, data, images_per_class"),
        ("data/c100", "[a]", 3, "folder of cifar100 is"),
        ("data/c100", "{images_per_class: 1}", 3, "images_per_class is 1; it is a whole number"),
        ("data/c100", "{images_per_class: [5, 5]}", 3, "every value once"),
        ("data/c100", "{images_per_class: [5, some]}", 3, "images_per_class is 'some'"),
        ("data/c100", "{epochs: all}", 3, "epochs is 'all'"),
        ("data/c100", "{task: cifar101}", 3, "Did you mean cifar10"),
        ("  cifar100: data/c100", "  mine: {data: a}", 3, "unknown task 'mine'"),
        ("epochs: 2", "measuring: often", 11, "measuring is 'often'; choose one of auto"),
        ("data/c100", "{a: 1, a: 2}", 3, "'a' is given twice"),
        ("seeds: [0, 1]\n", "", 1, "seeds is missing"),
    ],
)
def test_a_mistake_is_refused_by_line(tmp_path, old, new, line, why):
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(UsageError) as refusal:
        load_study(path)
    assert str(refusal.value).startswith(f"{path}:{line}: ") or "not YAML" in why
    assert why in str(refusal.value) and str(path) in str(refusal.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "- a", "just words", "5", "{a: 1", "\ttabs: 1", "[" * 3000]
)
def test_what_is_no_study_is_refused(tmp_path, text):
    with pytest.raises(UsageError, match="core.yaml"):
        load_study(write(tmp_path, text))
