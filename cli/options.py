"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pass_transfer.errors import UsageError

Task = Annotated[
    str,
    typer.Option(
        "--task",
        help="digits, cifar10, cifar100, tiny-imagenet, dtd, stanford-cars, food101, or folder:PATH with one folder of images per class.",
    ),
]
DataDir = Annotated[
    str | None,
    typer.Option(
        "--data-dir", help="Folder with the task's parquet files, instead of downloading it."
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Run folder to write.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
Precision = Annotated[str, typer.Option("--precision", help="auto, bf16, or no for float32.")]
Seed = Annotated[int, typer.Option("--seed", help="Of order, augmentation and initial values.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the run in --out.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")
]
Hypernet = Annotated[
    str, typer.Option("--hypernet", help="Zoo entry: a name, a folder, or hf-hub:owner/name.")
]
Backbone = Annotated[
    Path | None,
    typer.Option(
        "--backbone",
        help="Your own weights of the entry's architecture (.safetensors), instead of the entry's.",
    ),
]
Macs = Annotated[
    str | None,
    typer.Option(
        "--macs",
        help="Share of the dense network's MACs to keep (default 0.5), or an amount, such as 70M or 1.2G.",
    ),
]
Params = Annotated[
    str | None,
    typer.Option("--params", help="Share or amount of the parameters to keep, instead of --macs."),
]
Density = Annotated[
    float | None,
    typer.Option("--density", help="Share of all channels to keep, instead of --macs."),
]
LatencyMs = Annotated[
    float | None,
    typer.Option(
        "--latency-ms",
        help="Milliseconds that --batch images may take on --device, measured here, instead of --macs.",
    ),
]
Batch = Annotated[
    int, typer.Option("--batch", "--latency-batch", help="Images at once that --latency-ms is for.")
]
RoundTo = Annotated[
    int,
    typer.Option(
        "--round-to",
        help="Every layer keeps a multiple of this many channels, or all: arithmetic comes in steps of 8 or 16. 1 keeps just the best.",
    ),
]
KeepLayers = Annotated[
    list[str] | None,
    typer.Option(
        "--keep-layers",
        help="Layers to leave alone, by name or pattern; can be given several times.",
    ),
]


def cut(
    macs: str | None,
    params: str | None,
    density: float | None,
    latency_ms: float | None,
    round_to: int,
    keep_layers: list[str] | None,
) -> dict[str, Any]:
    """The budget options as arguments of a recipe; half of the MACs where none is given."""
    budgets = {"macs": macs, "params": params, "density": density, "latency_ms": latency_ms}
    given = {name: value for name, value in budgets.items() if value is not None}
    if len(given) > 1:
        raise UsageError(
            "give exactly one budget; here are "
            + " and ".join(f"--{name.replace('_', '-')} {value}" for name, value in given.items())
        )
    return (given or {"macs": 0.5}) | {
        "round_to": round_to,
        "keep_layers": tuple(keep_layers or ()),
    }
