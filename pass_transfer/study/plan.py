"""A study: which methods, tasks, budgets and seeds, from a YAML file that is checked to the last field before anything runs."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pass_transfer.errors import UsageError
from pass_transfer.files import read_text
from pass_transfer.scoring.registry import method_of, settings_of
from pass_transfer.shrinking.finetune import FinetuneConfig
from pass_transfer.tasks.registry import check_name

FIELDS = (
    "hypernet",
    "tasks",
    "methods",
    "budgets",
    "seeds",
    "epochs",
    "batch_size",
    "train_images",
    "reconstruct",
    "out",
)
NAME = r"[A-Za-z0-9_]+"  # of a method: it becomes part of a file's name
NEEDED = ("tasks", "methods", "budgets", "seeds")


@dataclass(frozen=True)
class Cell:
    """One network of a study: a method's masks for a task within a share of the dense MACs, fine-tuned with a seed."""

    task: str
    method: str
    budget: float
    seed: int

    @property
    def name(self) -> str:
        """Its file's name without .json."""
        return f"{self.task.replace('/', '_').replace(':', '-')}-{self.budget:g}-{self.method}-{self.seed}"


@dataclass(frozen=True)
class Study:
    """What is compared.

    Fields:
        hypernet: zoo entry whose backbone every method starts from.
        tasks: task name to the folder of its data, or None.
        methods: name to settings (fields that differ from the defaults); a name of one's own stands for the method in its settings' `method`.
        budgets: shares of the dense network's MACs to keep.
        seeds: of search, fine-tuning and initial values.
        epochs, batch_size: of fine-tuning, the same for every method.
        train_images: how many training images are used, the same for all; None for all of them.
        reconstruct: whether kept channels take over what cut ones carried (shrinking/reconstruct.py), the same for every method.
        out: folder of the cells' JSON files.
    """

    hypernet: str
    tasks: Mapping[str, str | None]
    methods: Mapping[str, Mapping[str, Any]]
    budgets: tuple[float, ...]
    seeds: tuple[int, ...]
    epochs: int = 1
    batch_size: int = 128
    train_images: int | None = None
    reconstruct: bool = True
    out: Path = field(default=Path("study"))

    def cells(self) -> list[Cell]:
        """All of them, one seed after the other, so that a study that is stopped early has whole columns."""
        return [
            Cell(task, method, budget, seed)
            for seed, task, method, budget in itertools.product(
                self.seeds, self.tasks, self.methods, self.budgets
            )
        ]

    def identity(self, cell: Cell) -> dict[str, Any]:
        """What decides a cell's result in this file: all settings of the method, the defaults too."""
        return {
            "hypernet": self.hypernet,
            "data": self.tasks[cell.task],
            **dataclasses.asdict(cell),
            "settings": settings_of(cell.method, self.methods[cell.method]),
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "train_images": self.train_images,
            "reconstruct": self.reconstruct,
        }


def load_study(path: str | Path) -> Study:
    """Read and check a study file.

    Raises:
        UsageError: anything that is not a study; the message names file and line.
        StorageError: the file cannot be read.
    """
    path = Path(path)
    text = read_text(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        raise UsageError(
            f"{path}:{text.count(chr(10), 0, error.position) + 1}: not YAML ({error.reason})"
        ) from error
    except yaml.MarkedYAMLError as error:
        raise UsageError(
            f"{path}{f':{error.problem_mark.line + 1}' if error.problem_mark else ''}: not YAML ({error.problem})"
        ) from error
    except RecursionError as error:
        raise UsageError(f"{path}: not a study (nested too deeply)") from error
    return _Reader(path).study(node)


class _Reader:
    """Values of a YAML tree, with the line in every complaint."""

    def __init__(self, path: Path):
        self.path = path

    def refuse(self, node: yaml.Node, why: str) -> UsageError:
        return UsageError(f"{self.path}:{node.start_mark.line + 1}: {why}")

    def value(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            self.items(
                node, "this"
            )  # refuses a name that is given twice, of which YAML takes the last
        try:
            return yaml.SafeLoader("").construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError, TypeError) as error:
            raise self.refuse(
                node, f"this cannot be read ({getattr(error, 'problem', None) or error})"
            ) from error

    def items(self, node: yaml.Node | None, what: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Key to (key's node, value's node) of a mapping with names as keys, each once."""
        if not isinstance(node, yaml.MappingNode):
            where = (
                f"{self.path}:{node.start_mark.line + 1}" if node is not None else f"{self.path}:1"
            )
            raise UsageError(f"{where}: {what} has to be a list of `name: value` lines")
        found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            name = self.value(key)
            if not isinstance(name, str) or name in found:
                raise self.refuse(
                    key, f"{name!r} is given twice" if name in found else f"{name!r} is no name"
                )
            found[name] = key, value
        return found

    def study(self, node: yaml.Node | None) -> Study:
        parts = self.items(node, "a study")
        for name, (key, _) in parts.items():
            if name not in FIELDS:
                raise self.refuse(key, f"unknown field {name!r}; a study has {', '.join(FIELDS)}")
        for name in NEEDED:
            if name not in parts:
                raise UsageError(
                    f"{self.path}:1: {name} is missing; a study needs {', '.join(NEEDED)}"
                )
        values = {name: getattr(self, f"_{name}")(parts[name][1]) for name in parts}
        return Study(
            **{"hypernet": "zoo/r18_tinyimnet", "out": Path("studies") / self.path.stem} | values
        )

    def text(self, node: yaml.Node, what: str) -> str:
        value = self.value(node)
        if not isinstance(value, str) or not value:
            raise self.refuse(node, f"{what} is {value!r}; it is a name or a path")
        return value

    def _hypernet(self, node: yaml.Node) -> str:
        return self.text(node, "hypernet")

    def _out(self, node: yaml.Node) -> Path:
        return Path(self.text(node, "out"))

    def _named(self, node: yaml.Node, what: str) -> dict[str, tuple[yaml.Node, yaml.Node | None]]:
        """Names with the nodes of their values, of a mapping or of a plain list (then without values)."""
        if not isinstance(node, yaml.SequenceNode):
            return {
                name: (key, None if self.value(value) is None else value)
                for name, (key, value) in self.items(node, what).items()
            }
        names = [(self.text(item, f"one of {what}"), item) for item in node.value]
        if len({name for name, _ in names}) < len(names) or not names:
            raise self.refuse(node, f"{what} has to hold every name once")
        return {name: (item, None) for name, item in names}

    def _tasks(self, node: yaml.Node) -> dict[str, str | None]:
        found = {}
        for name, (place, folder) in self._named(node, "tasks").items():
            try:
                check_name(name)
            except UsageError as error:
                raise self.refuse(place, str(error)) from error
            found[name] = None if folder is None else self.text(folder, f"the folder of {name}")
        return found

    def _methods(self, node: yaml.Node) -> dict[str, dict[str, Any]]:
        found = {}
        for name, (place, given) in self._named(node, "methods").items():
            settings = self.items(given, f"what is given for {name}") if given else {}
            if not re.fullmatch(NAME, name):
                raise self.refuse(
                    place, f"{name!r} is no name of a method: letters, digits and _ only"
                )
            found[name] = {key: self.value(value) for key, (_, value) in settings.items()}
            try:
                method_of(name, found[name])
            except UsageError as error:
                why = re.sub(
                    r"--([a-z][a-z-]*)", lambda option: option[1].replace("-", "_"), str(error)
                )
                meant = next(
                    (key for key in settings if re.search(rf"(?<!\w){re.escape(key)}(?!\w)", why)),
                    None,
                )
                raise self.refuse(
                    settings[meant][0] if meant else place, f"{name}: {why}"
                ) from error
        return found

    def _list(self, node: yaml.Node, what: str) -> Sequence[tuple[yaml.Node, Any]]:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found = [(item, self.value(item)) for item in nodes]
        if not found:
            raise self.refuse(node, f"{what} has to hold at least one value")
        return found

    def once(self, node: yaml.Node, what: str, names: Sequence[str]) -> None:
        if len(set(names)) < len(names):
            raise self.refuse(node, f"{what} has to hold every value once")

    def _budgets(self, node: yaml.Node) -> tuple[float, ...]:
        found = self._list(node, "budgets")
        for place, value in found:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
                raise self.refuse(
                    place,
                    f"budget {value!r} is no share of the dense network's MACs above 0 and at most 1",
                )
        self.once(node, "budgets", [f"{value:g}" for _, value in found])  # as cells are named
        return tuple(float(value) for _, value in found)

    def _seeds(self, node: yaml.Node) -> tuple[int, ...]:
        found = [self._whole(place, "seed", 0, value) for place, value in self._list(node, "seeds")]
        self.once(node, "seeds", list(map(str, found)))
        return tuple(found)

    def _epochs(self, node: yaml.Node) -> int:
        return self._whole(node, "epochs", 1)

    def _batch_size(self, node: yaml.Node) -> int:
        return self._whole(node, "batch_size", 2)

    def _train_images(self, node: yaml.Node) -> int | None:
        return None if self.value(node) is None else self._whole(node, "train_images", 2)

    def _reconstruct(self, node: yaml.Node) -> bool:
        if not isinstance(self.value(node), bool):
            raise self.refuse(node, f"reconstruct is {self.value(node)!r}; it is true or false")
        return self.value(node)

    def _whole(self, node: yaml.Node, what: str, least: int, value: Any = None) -> int:
        value = self.value(node) if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 48:
            raise self.refuse(node, f"{what} is {value!r}; it is a whole number from {least}")
        return value


def recipe(study: Study, seed: int) -> FinetuneConfig:
    """The fine-tuning that every method's network gets, the same whatever number of threads."""
    return FinetuneConfig(
        epochs=study.epochs, batch_size=study.batch_size, whole_batch=True, seed=seed
    )
