"""Methods of a study by name: each gives channel scores, and everything after the scores is the same for all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pass_transfer.errors import UsageError
from pass_transfer.networks import COUPLINGS
from pass_transfer.scoring import bee_colony, learned_scores, pass_methods, simple, sparse_training
from pass_transfer.scoring.method import Context, Found, Method, Scores

METHODS: dict[str, Method] = {
    **simple.METHODS,
    **sparse_training.METHODS,
    **bee_colony.METHODS,
    **learned_scores.METHODS,
    **pass_methods.METHODS,
}

__all__ = ["METHODS", "Context", "Found", "Method", "Scores", "method_of", "settings_of"]

VARIANT_OF = "method"  # the setting that names the method, where a study calls it something else
UNIFORM = (
    "uniform"  # the setting, of every method, that shares the budget out equally over the groups
)
COUPLING = "coupling"  # the setting, of a method that can, for a mask of every convolution's own


def method_of(name: str, given: Mapping[str, Any]) -> tuple[Method, Any]:
    """A method of a study and its settings, with what was given in place of the defaults.

    Args:
        name: in the study; that of a method, unless the settings' "method" says which one this is a variant of.

    Raises:
        UsageError: an unknown method, an unknown or impossible setting.
    """
    given = dict(given)
    kind = given.pop(VARIANT_OF, name)
    if not isinstance(kind, str) or kind not in METHODS:
        raise UsageError(f"unknown method {kind!r}; choose of {', '.join(METHODS)}")
    if kind != name and name in METHODS:
        raise UsageError(f"{name} is a method of its own; give this variant of {kind} another name")
    method = METHODS[kind]
    uniform, coupling = given.pop(UNIFORM, method.uniform), given.pop(COUPLING, method.coupling)
    if not isinstance(uniform, bool):
        raise UsageError(f"{UNIFORM} is {uniform!r}; it is true or false")
    if coupling not in COUPLINGS:
        raise UsageError(f"{COUPLING} is {coupling!r}; it is {' or '.join(COUPLINGS)}")
    if method.coupled and coupling != METHODS[kind].coupling:
        raise UsageError(
            f"{kind} cannot score every convolution on its own ({COUPLING}: {coupling})"
        )
    known = (
        {field.name: field for field in dataclasses.fields(method.settings)}
        if method.settings
        else {}
    )
    for key, value in list(given.items()):
        if key not in known:
            raise UsageError(
                f"unknown setting {key!r}; {kind} has {', '.join([UNIFORM, COUPLING, *known])}"
            )
        default = known[key].default
        accepted = (int, float) if isinstance(default, float) else type(default)
        value = given[key] = _number(value) if isinstance(default, float) else value
        if not isinstance(value, accepted) or isinstance(value, bool) != isinstance(default, bool):
            raise UsageError(
                f"{key} is {value!r}; it is a {type(default).__name__}, by default {default!r}"
            )
    return dataclasses.replace(method, uniform=uniform, coupling=coupling), method.settings(
        **given
    ) if method.settings else None


def settings_of(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides a method's scores, as JSON has it; arguments and errors as of method_of."""
    method, settings = method_of(name, given)
    return {
        VARIANT_OF: given.get(VARIANT_OF, name),
        UNIFORM: method.uniform,
        COUPLING: method.coupling,
    } | (dataclasses.asdict(settings) if settings else {})


def _number(value: Any) -> Any:
    """YAML takes 1e-4, without a point, for a word."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
