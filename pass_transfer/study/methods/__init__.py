"""Methods of a study by name: each gives channel scores, and everything after the scores is the same for all."""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping

from pass_transfer.errors import UsageError
from pass_transfer.study.methods import abc_pruner, learned, passes, simple, sparse
from pass_transfer.study.methods.method import Context, Method, Scores

METHODS: dict[str, Method] = {**simple.METHODS, **sparse.METHODS, **abc_pruner.METHODS, **learned.METHODS, **passes.METHODS}

__all__ = ["METHODS", "Context", "Method", "Scores", "check_settings"]


def check_settings(name: str, given: Mapping[str, Any]) -> Any:
    """A method's settings with what was given in place of the defaults. Raises UsageError for an unknown or impossible one."""
    method = METHODS[name]
    known = {field.name: field for field in dataclasses.fields(method.settings)} if method.settings else {}
    for key, value in given.items():
        if key not in known:
            raise UsageError(f"unknown setting {key!r}; {name} has {', '.join(known) or 'none'}")
        default = known[key].default
        kind = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(value, kind) or isinstance(value, bool) != isinstance(default, bool):
            raise UsageError(f"{key} is {value!r}; it is a {type(default).__name__}, by default {default!r}")
    return method.settings(**given) if method.settings else None
