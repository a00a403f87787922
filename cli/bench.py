"""The verb bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pass_transfer.cli import options


def bench(
    run: Annotated[Path | None, typer.Argument(help="Run folder of adapt.")] = None,
    network: options.Network = None,
    weights: options.Weights = None,
    image_size: options.ImageSize = None,
    macs: options.Macs = None,
    params: options.Params = None,
    density: options.Density = None,
    batch: Annotated[
        list[int] | None,
        typer.Option("--batch", help="Batch size; can be given several times (default 1, 8, 64)."),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            "--engine",
            help='"eager", "eager channels_last", "compile" or "onnxruntime"; can be given several '
            "times (default: all).",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", help="Measurements of each.")] = 15,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Measure a run's small network beside the dense one, or any network beside a cut of it.

    Interleaved, in float32; median and quartiles. PyTorch's and onnxruntime's threads are those
    of OMP_NUM_THREADS.

    Examples:

    \b
      pass-transfer bench runs/c100
      pass-transfer bench runs/c100 --batch 1 --batch 32 --engine onnxruntime
      pass-transfer bench --network mobilenet_v3_small --image-size 64 --macs 0.5
    """
    from pass_transfer.recipes.bench import BenchConfig
    from pass_transfer.recipes.bench import bench as run_bench
    from pass_transfer.report import bench_table

    config = BenchConfig(
        tuple(batch or BenchConfig.batch_sizes), tuple(engine or BenchConfig.engines), rounds
    )
    bounds = options.only_bound({"macs": macs, "params": params, "density": density})
    named = {"network": network, "weights": weights, "image_size": image_size}
    found = run_bench(run, config, device, **named, **bounds)
    print(json.dumps(found) if as_json else bench_table(found))
