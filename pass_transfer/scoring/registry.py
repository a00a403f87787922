"""The one list of methods, for adapt and for a study, and how one of them is chosen."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pass_transfer.errors import DivergedError, UsageError
from pass_transfer.networks import COUPLINGS
from pass_transfer.scoring.method import CHANNEL, UNITS, Context, Found, Method
from pass_transfer.scoring.methods import METHODS as METHODS
from pass_transfer.scoring.methods import METHODS_OF
from pass_transfer.settings import shown

VARIANT_OF = "method"  # the setting that names the method, where a study calls it something else
UNIFORM = "uniform"  # a setting of every method: the budget shared out equally over the groups
COUPLING = "coupling"  # a setting, of a method that can, for a mask of every convolution's own

# Names and settings of version 0.1, which are still read: the method now, and what it meant.
OLD_METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "transfer_prompt": ("prompt", {"prior": "source", "deploy_prompt": False}),
    "transfer_mask": ("mask", {"deploy_prompt": False}),
    "forward_selection": ("selection", {}),
}
OLD_SETTINGS = {"hears_prompt": "uses_prompt"}

TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


@dataclass(frozen=True)
class ChosenMethod:
    """A method with its settings.

    Fields:
        settings: of the method's own dataclass, or None.
        uniform: of channels, whether every group keeps the same share of the budget.
        coupling: of channels, "grouped", or "independent" for a mask of every convolution's own.
    """

    method: Method
    settings: Any = None
    uniform: bool = False
    coupling: str = "grouped"

    @property
    def name(self) -> str:
        """The method's name."""
        return self.method.name

    @property
    def unit(self) -> str:
        """What it scores, one of UNITS."""
        return self.method.unit

    def saved(self) -> dict[str, Any]:
        """All that decides its scores, as JSON has it."""
        own = dataclasses.asdict(self.settings) if self.settings else {}
        if self.method.unit != CHANNEL:
            return {VARIANT_OF: self.name} | own
        return {VARIANT_OF: self.name, UNIFORM: self.uniform, COUPLING: self.coupling} | own

    def score(self, context: Context) -> Found:
        """What the method finds.

        Raises:
            UsageError: it needs a hypernetwork, and there is none.
            DivergedError: scores that are not finite.
        """
        if self.method.needs_hypernet and context.hypernet is None:
            raise UsageError(f"the method {self.name} needs a hypernetwork, which is not given")
        given = self.method.scores(context)
        found = given if isinstance(given, Found) else Found(given)
        if not all(bool(part.isfinite().all()) for part in found.scores.values()):
            raise DivergedError(f"{self.name} found scores that are not finite")
        return found


def choose_method(
    name: str, given: Mapping[str, Any] | None = None, unit: str = CHANNEL
) -> ChosenMethod:
    """A method with what was given in place of its default settings.

    Args:
        name: a method's; or a name of one's own, where the setting "method" says which method
            this is a variant of.
        given: settings by name.
        unit: what it is to score, one of UNITS.

    Raises:
        UsageError: an unknown method, one that cannot score this unit, an unknown or impossible
            setting; it is named.
    """
    settings = modern_settings({VARIANT_OF: name, **(given or {})})
    kind = settings.pop(VARIANT_OF)
    methods = _methods_of(unit)
    if not isinstance(kind, str) or kind not in methods:
        raise UsageError(_unknown(kind, unit), "method")
    if kind != name and name in methods:
        raise UsageError(f"{name} is a method of its own; give this variant of {kind} another name")
    method = methods[kind]
    if unit != CHANNEL:
        return ChosenMethod(method, _settings(method, settings))
    uniform, coupling = settings.pop(UNIFORM, False), settings.pop(COUPLING, COUPLINGS[0])
    if not isinstance(uniform, bool):
        raise UsageError(f"setting {UNIFORM} is {shown(uniform)}; it is true or false", UNIFORM)
    if coupling not in COUPLINGS:
        message = f"setting {COUPLING} is {shown(coupling)}; it is {' or '.join(COUPLINGS)}"
        raise UsageError(message, COUPLING)
    if method.coupled and coupling != COUPLINGS[0]:
        message = f"{kind} cannot score every convolution on its own ({COUPLING}: {coupling})"
        raise UsageError(message, COUPLING)
    return ChosenMethod(method, _settings(method, settings), uniform, coupling)


def _methods_of(unit: object) -> Mapping[str, Method]:
    """The methods that score a unit, by name. Raises UsageError for one that is none."""
    if not isinstance(unit, str) or unit not in METHODS_OF:
        raise UsageError(f"unit is {shown(unit)}; it is {' or '.join(UNITS)}", "unit")
    return METHODS_OF[unit]


def _unknown(kind: object, unit: str) -> str:
    """Why a name is no method of a unit, and which are."""
    known = f"choose one of {', '.join(sorted(METHODS_OF[unit]))}"
    for other, methods in METHODS_OF.items():
        if other != unit and isinstance(kind, str) and kind in methods:
            return f"method {kind} scores the unit {other}, not the unit {unit}; {known}"
    return f"unknown method {shown(kind)}; {known}"


def describe_methods(unit: str = CHANNEL) -> dict[str, str]:
    """Every method of a unit by name, with what it does in a line. Raises UsageError."""
    return {name: _first_line(method.scores) for name, method in _methods_of(unit).items()}


def describe_method(name: str, unit: str = CHANNEL) -> dict[str, Any]:
    """A method's "name", what it is "about", its "settings" with defaults, and what they mean.

    Raises UsageError for an unknown one.
    """
    chosen = choose_method(name, unit=unit)
    defaults = chosen.saved()
    del defaults[VARIANT_OF]
    about = _first_line(chosen.method.scores)
    meaning = inspect.getdoc(chosen.method.settings) if chosen.method.settings else ""
    return {"name": chosen.name, "about": about, "settings": defaults, "meaning": meaning}


def _first_line(scores: Any) -> str:
    """What a function of scores says of itself; one with arguments filled in, what that says."""
    return (inspect.getdoc(getattr(scores, "func", scores)) or "").partition("\n")[0]


def methods_without_hypernet(unit: str = CHANNEL) -> tuple[str, ...]:
    """Names of a unit's methods that score any network: they have no hypernetwork and no prompt."""
    return tuple(
        name
        for name, method in _methods_of(unit).items()
        if not method.needs_hypernet and not hasattr(method.settings, "deploy_prompt")
    )


def modern_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under today's names, where version 0.1 wrote them; "method" is among them."""
    kind = given[VARIANT_OF]
    new_kind, meant = OLD_METHODS.get(kind, (kind, {})) if isinstance(kind, str) else (kind, {})
    renamed = {OLD_SETTINGS.get(name, name): value for name, value in given.items()}
    return {**meant, **renamed, VARIANT_OF: new_kind}


def _settings(method: Method, given: Mapping[str, Any]) -> Any:
    """A method's settings, with each value's type checked against the default's."""
    fields = dataclasses.fields(method.settings) if method.settings else ()
    known = {field.name: field.default for field in fields}
    checked = {}
    for key, value in given.items():
        if key not in known:
            every = [UNIFORM, COUPLING] if method.unit == CHANNEL else []
            names = ", ".join([*every, *(f"{n} ({known[n]!r})" for n in known)]) or "none"
            raise UsageError(f"unknown setting {shown(key)}; {method.name} has {names}", key)
        checked[key] = _typed(key, value, known[key])
    try:
        return method.settings(**checked) if method.settings else None
    except UsageError as error:
        raise UsageError(f"setting {error}", error.argument) from error


def _typed(key: str, value: Any, default: Any) -> Any:
    """A value of the default's type; YAML takes 1e-4, without a point, for a word."""
    if isinstance(default, float) and isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            pass
    accepted = (int, float) if isinstance(default, float) else (type(default),)
    if not isinstance(value, accepted) or isinstance(value, bool) != isinstance(default, bool):
        message = (
            f"setting {key} is {shown(value)}; it is {TYPES[type(default)]}, by default {default!r}"
        )
        raise UsageError(message, key)
    return value
