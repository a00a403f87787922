"""A study file (YAML), checked to the last field before anything runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pass_transfer.errors import PassTransferError, UsageError
from pass_transfer.files import read_text
from pass_transfer.networks.named import named_spec
from pass_transfer.scoring.judge import MEASURING
from pass_transfer.scoring.method import CHANNEL, UNITS
from pass_transfer.scoring.registry import choose_method
from pass_transfer.settings import check_choice, is_whole
from pass_transfer.shrinking.reconstruct import LEAST_SQUARES, WAYS
from pass_transfer.study.plan import Study
from pass_transfer.study.tasks import ALL, Axis, StudyTask, variants
from pass_transfer.tasks.registry import check_name

FIELDS = (
    "hypernet",
    "network",
    "weights",
    "image_size",
    "unit",
    "tasks",
    "methods",
    "budgets",
    "seeds",
    "epochs",
    "batch_size",
    "train_images",
    "measuring",
    "reconstruct",
    "round_to",
    "out",
)
TASK_FIELDS = ("task", "data", "images_per_class", "epochs")
Parts = Mapping[str, tuple[yaml.Node, yaml.Node]]  # by field: its name's node and its value's
NAME = r"[A-Za-z0-9_]+"  # of a method: it becomes part of a file's name
NEEDED = ("tasks", "methods", "budgets", "seeds")


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
        line = text.count("\n", 0, error.position) + 1
        raise UsageError(f"{path}:{line}: not YAML ({error.reason})") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UsageError(f"{where}: not YAML ({error.problem})") from error
    except RecursionError as error:
        raise UsageError(f"{path}: not a study (nested too deeply)") from error
    return _Reader(path).study(node)


class _Reader:
    """Values of a YAML tree, with the line in every complaint."""

    def __init__(self, path: Path):
        self.path, self.unit = path, CHANNEL

    def refuse(self, node: yaml.Node, why: str) -> UsageError:
        return UsageError(f"{self.path}:{node.start_mark.line + 1}: {why}")

    def value(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            self.items(node, "this")  # refuses a name that is given twice, which YAML does not
        try:
            return yaml.SafeLoader("").construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError, TypeError) as error:
            why = getattr(error, "problem", None) or error
            raise self.refuse(node, f"this cannot be read ({why})") from error

    def items(self, node: yaml.Node | None, what: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Key to (key's node, value's node) of a mapping with names as keys, each once."""
        if not isinstance(node, yaml.MappingNode):
            line = 1 if node is None else node.start_mark.line + 1
            message = f"{what} has to be a list of `name: value` lines"
            raise UsageError(f"{self.path}:{line}: {message}")
        found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            name = self.value(key)
            if not isinstance(name, str) or name in found:
                why = "is given twice" if name in found else "is no name"
                raise self.refuse(key, f"{name!r} {why}")
            found[name] = key, value
        return found

    def study(self, node: yaml.Node | None) -> Study:
        parts = self.items(node, "a study")
        for name, (key, _) in parts.items():
            if name not in FIELDS:
                raise self.refuse(key, f"unknown field {name!r}; a study has {', '.join(FIELDS)}")
        for name in NEEDED:
            if name not in parts:
                message = f"{name} is missing; a study needs {', '.join(NEEDED)}"
                raise UsageError(f"{self.path}:1: {message}")
        self.unit = self._unit(parts["unit"][1]) if "unit" in parts else CHANNEL
        values = {name: getattr(self, f"_{name}")(parts[name][1]) for name in parts}
        self.made_from(parts, values)
        defaults: dict[str, Any] = {
            "hypernet": None if "network" in values else "zoo/r18_tinyimnet",
            "out": Path("studies") / self.path.stem,
        }
        return Study(**defaults | values)

    def made_from(self, parts: Parts, values: Mapping[str, Any]) -> None:
        """Refuse a network that cannot be one, and methods that it does not take."""
        if "network" not in values:
            for name in ("weights", "image_size"):
                if name in values:
                    raise self.refuse(parts[name][0], f"{name} goes with a network by its name")
            return
        if "hypernet" in values:
            raise self.refuse(parts["network"][0], "give hypernet or network, not both")
        try:
            named_spec(values["network"], values.get("weights"), values.get("image_size"))
        except PassTransferError as error:
            place = parts.get(getattr(error, "argument", None) or "network", parts["network"])
            raise self.refuse(place[0], str(error)) from error
        for name, settings in values["methods"].items():
            if choose_method(name, settings, self.unit).method.needs_hypernet:
                why = f"{name} needs a hypernetwork, which a network by its name does not have"
                raise self.refuse(parts["methods"][1], why)

    def text(self, node: yaml.Node, what: str) -> str:
        value = self.value(node)
        if not isinstance(value, str) or not value:
            raise self.refuse(node, f"{what} is {value!r}; it is a name or a path")
        return value

    def _hypernet(self, node: yaml.Node) -> str:
        return self.text(node, "hypernet")

    def _network(self, node: yaml.Node) -> str:
        return self.text(node, "network")

    def _weights(self, node: yaml.Node) -> str:
        return self.text(node, "weights")

    def _unit(self, node: yaml.Node) -> str:
        value = self.text(node, "unit")
        if value not in UNITS:
            raise self.refuse(node, f"unit is {value!r}; it is {' or '.join(UNITS)}")
        return value

    def _image_size(self, node: yaml.Node) -> int:
        return self._whole(node, "image_size", 1)

    def _out(self, node: yaml.Node) -> Path:
        return Path(self.text(node, "out"))

    def _named(self, node: yaml.Node, what: str) -> dict[str, tuple[yaml.Node, yaml.Node | None]]:
        """Names with the nodes of their values; of a plain list, without values."""
        if not isinstance(node, yaml.SequenceNode):
            found: dict[str, tuple[yaml.Node, yaml.Node | None]] = {}
            for name, (key, value) in self.items(node, what).items():
                found[name] = key, None if self.value(value) is None else value
            return found
        names = [(self.text(item, f"one of {what}"), item) for item in node.value]
        if len({name for name, _ in names}) < len(names) or not names:
            raise self.refuse(node, f"{what} has to hold every name once")
        return {name: (item, None) for name, item in names}

    def _tasks(self, node: yaml.Node) -> dict[str, StudyTask]:
        found: dict[str, StudyTask] = {}
        for called, (place, given) in self._named(node, "tasks").items():
            if isinstance(given, yaml.MappingNode):
                found |= self.variants(called, place, self.items(given, called))
                continue
            folder = None if given is None else self.text(given, f"the folder of {called}")
            found[called] = StudyTask(self.task(place, called), folder)
        return found

    def task(self, place: yaml.Node, name: str) -> str:
        try:
            check_name(name)
        except UsageError as error:
            raise self.refuse(place, str(error)) from error
        return name

    def variants(self, called: str, place: yaml.Node, parts: Parts) -> dict[str, StudyTask]:
        """A task with each of its numbers of images a class and of epochs."""
        for name, (key, _) in parts.items():
            if name not in TASK_FIELDS:
                known = ", ".join(TASK_FIELDS)
                raise self.refuse(key, f"unknown field {name!r}; a task has {known}")
        name = self.text(parts["task"][1], "task") if "task" in parts else called
        self.task(parts["task"][1] if "task" in parts else place, name)
        data = self.text(parts["data"][1], f"the folder of {called}") if "data" in parts else None
        images = self.axis(parts, "images_per_class", 2, ALL)
        epochs = self.axis(parts, "epochs", 0, None)
        return variants(StudyTask(name, data, family=called), images, epochs)

    def axis(self, parts: Parts, what: str, least: int, word: str | None) -> Axis:
        """A number, or several as a list; a word stands for None."""
        if what not in parts:
            return None
        node = parts[what][1]
        found: list[int | None] = []
        for place, value in self._list(node, what):
            is_word = value == word and word is not None
            found.append(None if is_word else self._whole(place, what, least, value))
        self.once(node, what, list(map(str, found)))
        return found if isinstance(node, yaml.SequenceNode) else found[0]

    def _methods(self, node: yaml.Node) -> dict[str, dict[str, Any]]:
        found = {}
        for name, (place, given) in self._named(node, "methods").items():
            settings = self.items(given, f"what is given for {name}") if given else {}
            if not re.fullmatch(NAME, name):
                message = f"{name!r} is no name of a method: letters, digits and _ only"
                raise self.refuse(place, message)
            found[name] = {key: self.value(value) for key, (_, value) in settings.items()}
            try:
                choose_method(name, found[name], self.unit)
            except UsageError as error:
                meant = _named_in(str(error), settings)
                where = settings[meant][0] if meant else place
                raise self.refuse(where, f"{name}: {error}") from error
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
                what = "MACs" if self.unit == CHANNEL else "single weights"
                share = f"share of the dense network's {what} above 0 and at most 1"
                raise self.refuse(place, f"budget {value!r} is no {share}")
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

    def _round_to(self, node: yaml.Node) -> int:
        return self._whole(node, "round_to", 1)

    def _measuring(self, node: yaml.Node) -> str:
        value = self.value(node)
        try:
            check_choice("measuring", value, MEASURING)
        except UsageError as error:
            raise self.refuse(node, str(error)) from error
        return value

    def _reconstruct(self, node: yaml.Node) -> bool | str:
        value, others = self.value(node), [way for way in WAYS if way != LEAST_SQUARES]
        if not isinstance(value, bool) and value not in others:
            known = f"true (least squares), false, {', '.join(others[:-1])} or {others[-1]}"
            raise self.refuse(node, f"reconstruct is {value!r}; it is {known}")
        return value

    def _whole(self, node: yaml.Node, what: str, least: int, value: Any = None) -> int:
        value = self.value(node) if value is None else value
        if not is_whole(value, least):
            raise self.refuse(node, f"{what} is {value!r}; it is a whole number from {least}")
        return value


def _named_in(message: str, names: Iterable[str]) -> str | None:
    """The first of the names that a message is about."""
    for name in names:
        if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", message):
            return name
    return None
