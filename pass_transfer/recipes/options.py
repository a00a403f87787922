"""Keyword arguments that several recipes share, sorted by what they belong to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pass_transfer.arguments import check_is
from pass_transfer.budgets import BUDGET_KINDS, Budget, Sparsity, choose_budget
from pass_transfer.errors import UsageError
from pass_transfer.settings import shown, whole

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Fields = TypeVar("Fields", bound="DataclassInstance")

HOW = ("batch", "round_to", "keep_layers")  # arguments of Budget beside the bound
SPARSITIES = ("sparsity", "pattern")  # arguments of Sparsity
DEFAULT_MACS = 0.5
PIXELS = whole(1, 512)
EFFORTS = ("quick", "full")  # how long training may take

# Arguments of version 0.1, and what they are now.
RENAMED = {
    "transfer": "method",
    "prior": 'settings={"prior": ...}',
    "prompt_steps": 'settings={"steps": ...}',
    "prompt_lr": 'settings={"lr": ...}',
    "deploy_prompt": 'settings={"deploy_prompt": ...}',
    "latency_batch": "batch",
    "size": "image_size",
}


@dataclass(frozen=True)
class RunOptions:
    """Where a recipe runs.

    Fields:
        device: "auto", "cpu", "cuda" or "mps".
        precision: "auto", "bf16", or "no" for float32.
        resume, force: continue or replace a run that is already there.
    """

    device: str = "auto"
    precision: str = "auto"
    resume: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        for name in ("resume", "force"):
            check_is(name, getattr(self, name), bool, "True or False")


def take(kind: type[Fields], options: dict[str, Any]) -> Fields:
    """A dataclass from those of the options that are its fields, which are taken out."""
    names = [field.name for field in dataclasses.fields(kind)]
    return kind(**{name: options.pop(name) for name in names if name in options})


def take_budget(options: dict[str, Any]) -> Budget:
    """The budget among the options, which is taken out: a Budget, or its arguments.

    Half of the multiply-accumulates where no bound is given. Raises UsageError.
    """
    given = options.pop("budget", None)
    names = [name for name in (*BUDGET_KINDS, *HOW) if name in options]
    parts = {name: options.pop(name) for name in names}
    if given in EFFORTS:
        raise UsageError(f"budget is size and speed; for training time give effort={given!r}")
    if given is not None:
        return choose_budget(given, parts)
    bounds = {name: parts[name] for name in BUDGET_KINDS if parts.get(name) is not None}
    how = {name: parts[name] for name in HOW if name in parts}
    bound: dict[str, Any] = bounds or {"macs": DEFAULT_MACS}
    return Budget(**bound | how)


def take_sparsity(options: dict[str, Any]) -> Sparsity:
    """How many single weights go, among the options, which is taken out. Raises UsageError."""
    given = options.pop("budget", None)
    parts = {name: options.pop(name, None) for name in SPARSITIES}
    keep_layers = options.pop("keep_layers", ())
    for name in ("batch", "round_to"):
        options.pop(name, None)
    for name in BUDGET_KINDS:
        if options.pop(name, None) is not None:
            message = f"{name} is a budget of channels; for single weights give sparsity or pattern"
            raise UsageError(message, name)
    if given is None:
        return Sparsity(**parts, keep_layers=keep_layers)
    if not isinstance(given, Sparsity):
        message = f"budget is {given!r}; for single weights it is a Sparsity, such as Sparsity(0.9)"
        raise UsageError(message, "budget")
    return given


def refuse_sparsity(options: dict[str, Any]) -> None:
    """Raise UsageError where channels go, and a share or pattern of single weights is given."""
    for name in SPARSITIES:
        if options.pop(name, None) is not None:
            raise UsageError(f"{name} goes with single weights (unit=weight)", name)


def check_image_size(asked: int | None, own: int | None = None, whose: str = "") -> None:
    """Refuse a size of images that is none, or not that of what is given.

    Args:
        asked: the argument image_size; None where it is not given.
        own: the only size that something takes; `whose` says in words what.

    Raises UsageError.
    """
    if asked is not None and not PIXELS.fits(asked):
        message = f"image_size is {shown(asked)}; it is {PIXELS.words}, pixels of a side"
        raise UsageError(message, "image_size")
    if asked is not None and own is not None and asked != own:
        message = f"image_size is {asked}; {whose} takes images of {own} pixels, and no others"
        raise UsageError(message, "image_size")


def refuse_unknown(options: Mapping[str, Any], recipe: str) -> None:
    """Raise UsageError where an option is left that nothing takes."""
    for name in options:
        if name in RENAMED:
            raise UsageError(f"{name} is now {RENAMED[name]}; see CHANGELOG.md")
        raise UsageError(f"{recipe} has no argument {name!r}", name)
