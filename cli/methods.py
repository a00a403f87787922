"""The verb methods."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from pass_transfer.cli import options


def methods(
    name: Annotated[str | None, typer.Argument(help="A method, for its settings.")] = None,
    unit: options.Unit = "channel",
    as_json: options.Json = False,
) -> None:
    """List the methods of adapt, or one's settings with their defaults.

    Examples:

    \b
      pass-transfer methods
      pass-transfer methods prompt
      pass-transfer methods --unit weight
    """
    from pass_transfer.scoring.registry import describe_method, describe_methods

    if name is None:
        found = describe_methods(unit)
        print(json.dumps(found) if as_json else "\n".join(f"{n}: {a}" for n, a in found.items()))
        return
    one = describe_method(name, unit)
    lines = [f"{one['name']}: {one['about']}"]
    lines += [f"  --set {field}={_said(default)}" for field, default in one["settings"].items()]
    lines += [f"\n{one['meaning']}"] if one["meaning"] else []
    print(json.dumps(one) if as_json else "\n".join(lines))


def _said(default: Any) -> str:
    return default if isinstance(default, str) else json.dumps(default)
