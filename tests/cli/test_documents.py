"""Every example of README.md, docs/ and the verbs' help is run, so that what is written works.

A document's blocks run one after the other in one folder, which holds a small world: an entry
of random weights as zoo/r18_tinyimnet, the studies with their cells, parquet files of a few
images, photographs of noise, a checkpoint. Nothing is downloaded: data sets come from the
parquet files, torchvision's weights are random, and a latency budget is met by a clock that
goes by the number of weights. Commands run as they are written, but for SHORT, which makes
them short; a run that is there already makes way. `make` and the benchmarks are checked as far
as their arguments. A block that is fenced as `sh slow` is not run, only parsed.
"""

import argparse
import dataclasses
import importlib
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import typer
from PIL import Image

from pass_transfer.budgets import latency as latency_budget
from pass_transfer.cli import cache, main, study, zoo
from pass_transfer.files import write_tensors
from pass_transfer.networks import BackboneSpec, build_backbone
from pass_transfer.study import load_study
from pass_transfer.tasks import registry
from pass_transfer.tasks.digits import DIGITS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
HELP_ORDER = (
    "finetune",
    "search",
    "adapt",
    "inspect",
    "eval",
    "predict",
    "export",
    "bench",
    "convert",
    "report",
    "push",
    "env",
    "methods",
    "study",
    "zoo",
    "cache",
)  # what a verb needs, the ones before it make
QUICK = ["--epochs", "1", "--batch-size", "8", "--device", "cpu", "--force"]
SHORT = {
    "adapt": [*QUICK, "--no-reconstruct", "--no-report"],
    "finetune": [*QUICK, "--image-size", "32"],
    "search": ["--steps", "2", "--tasks", "2", "--batch-size", "8", "--device", "cpu", "--force"],
    "bench": ["--rounds", "1", "--batch", "1", "--engine", "eager", "--device", "cpu"],
}
SHORT_METHODS = {  # settings that make a method short
    "prompt": ["--set", "steps=1"],
    "selection": ["--set", "images=64"],
    "taylor": ["--set", "images=64"],
}
WITH_DATA = ("adapt", "finetune", "search", "eval")  # take --data-dir
PYTHON_SHORT = {
    "epochs": 1,
    "batch_size": 8,
    "device": "cpu",
    "reconstruct": False,
    "force": True,
}


def blocks(text):
    """(info string, content) of the fenced blocks of Markdown, and of the indented ones.

    The indented ones are shell commands here.
    """
    found, indented, fence = [], [], None
    lines = text.splitlines()
    for number, line in enumerate([*lines, ""]):
        if line.startswith("```"):
            if fence is None:
                fence = (line.removeprefix("```").strip(), [])
            else:
                found.append((fence[0], "\n".join(fence[1])))
                fence = None
        elif fence is not None:
            fence[1].append(line)
        elif line.startswith("    "):
            assert indented or not lines[number - 1].strip(), (
                f"not a code block in Markdown, as no blank line is before it: {line}"
            )
            indented.append(line.strip())
        elif indented:
            found.append(("sh", "\n".join(indented)))
            indented = []
    assert fence is None, "a fence is not closed"
    return found


def commands(shell):
    """The commands of a block as lists of arguments, without comments."""
    return [
        words
        for line in shell.replace("\\\n", " ").splitlines()
        if (words := shlex.split(line, comments=True))
    ]


def examples(callback):
    """The commands in a verb's help."""
    lines = [
        line.strip().removeprefix("Example:").strip()
        for line in callback.__doc__.replace("\\\n", " ").splitlines()
    ]
    return "\n".join(line for line in lines if line.startswith("pass-transfer "))


def noise(size, seed):
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    )


def write_parquet(folder, image, label, test, classes=4):
    """A data set as the hub has it, of noise: 12 training and 4 test images a class."""
    folder.mkdir(parents=True)
    features = datasets.Features(
        {
            image: datasets.Image(),
            label: datasets.ClassLabel(names=[f"class {n}" for n in range(classes)]),
        }
    )
    for split, count in (("train", 12), (test, 4)):
        rows = {
            image: [noise(16, n) for n in range(count * classes)],
            label: [n % classes for n in range(count * classes)],
        }
        datasets.Dataset.from_dict(rows, features=features).to_parquet(
            folder / f"{split}-00000-of-00001.parquet"
        )


def weights(classes):
    torch.manual_seed(3)
    return build_backbone(BackboneSpec("resnet18", classes, 32)).state_dict()


def by_weights(networks, image_size, batch_sizes, rounds):
    """A clock that no other process disturbs: a millisecond for 100,000 weights."""
    return {
        name: dict.fromkeys(batch_sizes, sum(p.numel() for p in network.parameters()) / 1e5)
        for name, network in networks.items()
    }


def few_digits(name, data_dir):
    """The first 100 digits of each split."""
    names, sources = DIGITS.load(name, data_dir)
    few = {}
    for key, source in sources.items():
        fingerprint = f"few {source.fingerprint}"
        few[key] = dataclasses.replace(source, labels=source.labels[:100], fingerprint=fingerprint)
    return names, few


@pytest.fixture
def world(entry, photos, tmp_path, monkeypatch):
    """The folder that examples run in."""
    here = tmp_path / "home" / "here"
    shutil.copytree(entry, here / "zoo" / "r18_tinyimnet")
    write_parquet(here / "data" / "cifar100", "img", "fine_label", "test")
    write_parquet(here / "data" / "tiny-imagenet", "image", "label", "valid")
    shutil.copytree(here / "data", tmp_path / "home" / "shared" / "data")
    photos(here / "photos", count=12)
    shutil.copytree(here / "photos", tmp_path / "home" / "photos")
    noise(48, 0).save(here / "photo.jpg")
    (here / "card.md").write_text("# mine\n")
    shutil.copytree(ROOT / "benchmarks" / "studies", here / "benchmarks" / "studies")
    shutil.copytree(
        ROOT / "benchmarks" / "results" / "study",
        here / "benchmarks" / "results" / "study",
        ignore=shutil.ignore_patterns("searches", "locks", "report"),
    )
    (here / "studies").mkdir()
    (here / "studies" / "quick.yaml").write_text(
        "tasks: [digits]\nmethods: [random, group_l1]\nbudgets: [0.5]\nseeds: [0]\n"
        "train_images: 40\nbatch_size: 8\n"
    )
    torch.save(weights(2), here / "mine.pth")
    write_tensors(here / "mine.safetensors", weights(2))
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(
        "torchvision.models.WeightsEnum.get_state_dict", lambda self, **options: weights(1000)
    )
    few = dataclasses.replace(DIGITS, load=few_digits)
    others = [source for source in registry.SOURCES if source is not DIGITS]
    monkeypatch.setattr(registry, "SOURCES", (few, *others))
    monkeypatch.setattr(latency_budget, "measure_latency", by_weights)
    return here


@pytest.fixture
def run_shell(call, world, monkeypatch):
    """Runs the commands of a block, each once a document."""
    done = set()

    def run_one(words):
        if words[0] == "make":
            checked = subprocess.run(
                ["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True
            )
            assert checked.returncode == 0, checked.stderr
        elif words[0] == "python":
            parse_script(words[1], words[2:], monkeypatch)
        else:
            assert words[0] == "pass-transfer", f"no example may need {words[0]}"
            if asks_the_hub(words):
                return parse_verb(words[1:])
            code, _, err = call(*shortened(words[1:], world))
            assert code == 0, f"{shlex.join(words)}\n{err}"

    def run(shell):
        for words in commands(shell):
            if tuple(words) not in done:
                done.add(tuple(words))
                run_one(words)

    return run


def shortened(words, world):
    """A command's arguments made short, with the data set from the world."""
    more = list(SHORT.get(words[0], []))
    if words[0] == "search" and "--network" in words:
        more += ["--epochs", "1"]
    if "--resume" in words:
        more.remove("--force")
    if words[0] == "adapt":
        method = "prompt" if "--hypernet" in words else "selection"
        method = words[words.index("--method") + 1] if "--method" in words else method
        more += SHORT_METHODS.get(method, [])
    if words[0] in WITH_DATA and "--data-dir" not in words:
        task = words[words.index("--task") + 1] if "--task" in words else "tiny-imagenet"
        more += ["--data-dir", world / "data" / task] if (world / "data" / task).is_dir() else []
    return [*words, *more]


def asks_the_hub(words):
    """Whether a command needs a network; test_hub.py runs such ones against a stub."""
    return {"push", "pull"} & set(words[1:3]) or any(w.startswith("hf-hub:") for w in words)


def parse_verb(words):
    """A verb's arguments are understood; nothing runs."""
    command = typer.main.get_command(main.app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context("pass-transfer", list(words))


class Parsed(Exception):
    """A script's arguments are understood."""


def parse_script(path, arguments, monkeypatch):
    """A benchmark's arguments go through its own parser, and no further."""
    original = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, *given):
        original(parser, *given)
        raise Parsed

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        patch.setattr("sys.argv", [path, *arguments])
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        with pytest.raises(Parsed):
            runpy.run_path(str(ROOT / path), run_name="__main__")


@pytest.fixture
def run_python(world, monkeypatch):
    """Runs a block of Python in a namespace of its own, where `images` is a batch."""
    module = importlib.import_module("pass_transfer.recipes.adapt")
    real = module.adapt

    def short_adapt(*given, **more):
        if more.get("method", "prompt") == "prompt":
            more["settings"] = {**more.get("settings", {}), "steps": 1}
        return real(*given, **more | PYTHON_SHORT)

    monkeypatch.setattr(module, "adapt", short_adapt)

    def run(code, title):
        exec(compile(code, title, "exec"), {"images": torch.rand(2, 3, 32, 32)})

    return run


def write_study(content):
    """A study is written to where its first line says, and understood."""
    path = Path(content.splitlines()[0].removeprefix("# "))
    path.write_text(content)
    assert load_study(path).cells()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_example_of_a_document_works(document, run_shell, run_python):
    for number, (info, content) in enumerate(blocks(document.read_text(encoding="utf-8"))):
        if info == "sh":
            run_shell(content)
        elif info == "sh slow":
            assert commands(content)
        elif info == "yaml":
            write_study(content)
        elif info == "python":
            run_python(content, f"{document.name}, block {number}")
        else:
            assert info == "", f"a block of {info!r} is neither run nor output"


def test_every_example_in_the_help_of_a_verb_works(run_shell):
    verbs = {command.name: command.callback for command in main.app.registered_commands}
    several = {"zoo": zoo, "study": study, "cache": cache}
    assert {*verbs, *several} == set(HELP_ORDER), (
        "a new verb needs its place among those whose examples are run"
    )
    for name in HELP_ORDER:
        callbacks = (
            [verbs[name]]
            if name in verbs
            else [command.callback for command in several[name].app.registered_commands]
        )
        for callback in callbacks:
            assert examples(callback), f"{callback.__name__} has no example"
            run_shell(examples(callback))


def test_blocks_are_found_as_markdown_has_them():
    text = "text\n\n    pass-transfer a\n    pass-transfer b  # why\n\n"
    text += "```sh\npass-transfer c \\\n  d\n```\n```\noutput\n```\n"
    assert [(info, commands(content)) for info, content in blocks(text)] == [
        ("sh", [["pass-transfer", "a"], ["pass-transfer", "b"]]),
        ("sh", [["pass-transfer", "c", "d"]]),
        ("", [["output"]]),
    ]
    with pytest.raises(AssertionError, match="no blank line"):
        blocks("text\n    pass-transfer a\n")
    with pytest.raises(AssertionError, match="not closed"):
        blocks("```sh\npass-transfer a\n")


def test_wrong_arguments_of_a_benchmark_are_noticed(monkeypatch, capsys):
    parse_script("benchmarks/distillation.py", ["--seeds", "0", "1"], monkeypatch)
    with pytest.raises(SystemExit):
        parse_script("benchmarks/distillation.py", ["--sedes", "0"], monkeypatch)
