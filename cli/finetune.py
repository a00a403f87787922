"""The verb finetune."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pass_transfer.cli import options


def finetune(
    task: options.Task,
    out: options.Out,
    network: Annotated[
        str,
        typer.Option("--network", "--backbone", help="A name, such as resnet18 or timm/resnet18d."),
    ] = "resnet18",
    weights: options.Weights = None,
    image_size: Annotated[
        int, typer.Option("--image-size", help="Side of an image in pixels, up to 512.")
    ] = 64,
    data_dir: options.DataDir = None,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the training images.")] = 6,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images per step.")] = 128,
    lr: Annotated[float, typer.Option("--lr", help="Peak learning rate.")] = 0.03,
    weight_decay: Annotated[
        float, typer.Option("--weight-decay", help="Of weights, not of BatchNorm.")
    ] = 2e-4,
    mixup: Annotated[
        float,
        typer.Option("--mixup", help="Blend images in pairs by Beta(mixup, mixup); 0 for none."),
    ] = 0.0,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    resume: options.Resume = False,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Fine-tune a dense backbone on a task.

    The first step towards a zoo entry; search is the second.

    Example:

    \b
      pass-transfer finetune --network resnet18 --weights IMAGENET1K_V1 \\
          --task tiny-imagenet --out runs/backbone
    """
    from pass_transfer.recipes.finetune import finetune as run
    from pass_transfer.shrinking.finetune import FinetuneConfig

    config = FinetuneConfig(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        mixup=mixup,
        seed=seed,
    )
    result = run(
        network,
        weights,
        task,
        out,
        image_size=image_size,
        data_dir=data_dir,
        config=config,
        device=device,
        precision=precision,
        resume=resume,
        force=force,
    )
    said = f"top-1 {result['top1']:.2f} % on the test images of {task}"
    print(json.dumps(result) if as_json else f"{said}, as stored in {out}/backbone.safetensors")
