"""The verb export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pass_transfer.cli import options


def export(
    out: Annotated[
        Path,
        typer.Option("--out", help="File to write; its ending names the format: .onnx or .pt2."),
    ],
    run: Annotated[Path | None, typer.Argument(help="Run folder of adapt.")] = None,
    network: options.Network = None,
    weights: options.Weights = None,
    image_size: options.ImageSize = None,
    format: Annotated[
        str | None,
        typer.Option("--format", help="onnx or pt2, if the file's ending does not say."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Write a run's small network, or a whole one by its name, for other runtimes.

    One file, checked against torch, that takes any number of RGB images in [0, 1]. Prompt,
    normalisation and classifier are inside, class names in its metadata.

    Examples:

    \b
      pass-transfer export runs/c100 --out small.onnx
      pass-transfer export runs/c100 --format pt2 --out small.pt2
      pass-transfer export --network resnet18 --weights mine.safetensors \\
          --image-size 64 --out whole.onnx
    """
    from pass_transfer.recipes.export import export as write

    found = write(run, out, format, network=network, weights=weights, image_size=image_size)
    size = f"{found['bytes'] / 1e6:.2f} MB of {found['format']}"
    near = f"within {found['difference']:.0e} of torch's logits"
    print(json.dumps(found) if as_json else f"{found['path']}: {size}, {near}")
