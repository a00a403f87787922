"""The verb search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pass_transfer.cli import options


def search(
    out: options.Out,
    backbone: Annotated[
        Path | None,
        typer.Option(
            "--backbone", help="Folder that pass-transfer finetune wrote, or a zoo entry."
        ),
    ] = None,
    network: options.Network = None,
    weights: options.Weights = None,
    image_size: options.ImageSize = None,
    task: Annotated[
        str | None, typer.Option("--task", help="For --network: the task that it is searched on.")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", help="For --network: of fine-tuning it on its task first."),
    ] = None,
    data_dir: options.DataDir = None,
    steps: Annotated[int, typer.Option("--steps", help="Steps, over all source tasks.")] = 1500,
    tasks: Annotated[
        int, typer.Option("--tasks", help="Number of source tasks made of the dataset.")
    ] = 40,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images per step.")] = 128,
    lr: Annotated[
        float, typer.Option("--lr", help="Peak learning rate of the hypernetwork.")
    ] = 1e-3,
    hidden: Annotated[
        int | None,
        typer.Option(
            "--hidden",
            min=1,
            help="Width of the hypernetwork; without it the largest power of two up to 128 with at "
            "most 6 % of the network's parameters.",
        ),
    ] = None,
    prompt: Annotated[str, typer.Option("--prompt", help="additive or expansive.")] = "additive",
    pad: Annotated[
        int, typer.Option("--pad", help="Width of the prompt's frame in pixels; 0 is 16 per 224.")
    ] = 0,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    resume: options.Resume = False,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Train a hypernetwork on a backbone's own task.

    The run folder's entry/ is a zoo entry. A network by its name is fine-tuned into OUT-backbone
    first.

    Examples:

    \b
      pass-transfer search --backbone runs/backbone \\
          --data-dir data/tiny-imagenet --out runs/search
      pass-transfer search --network resnet18 --weights mine.safetensors \\
          --image-size 32 --task digits --out runs/own-entry
    """
    from pass_transfer.recipes.search import search as run
    from pass_transfer.scoring.hypernet import HypernetConfig
    from pass_transfer.scoring.search import SearchConfig

    config = SearchConfig(
        steps=steps, tasks=tasks, batch_size=batch_size, lr=lr, prompt=prompt, pad=pad, seed=seed
    )
    result = run(
        backbone,
        out,
        network=network,
        weights=weights,
        image_size=image_size,
        task=task,
        epochs=epochs,
        data_dir=data_dir,
        config=config,
        shape=None if hidden is None else HypernetConfig(hidden=hidden),
        device=device,
        precision=precision,
        resume=resume,
        force=force,
    )
    print(
        json.dumps(result)
        if as_json
        else f"trained in {result['seconds']:.0f} s; the entry is {out}/entry"
    )
