from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pass_transfer.cli import options


def adapt(
    hypernet: options.Hypernet,
    task: options.Task,
    out: options.Out,
    data_dir: options.DataDir = None,
    backbone: options.Backbone = None,
    macs: options.Macs = None,
    params: options.Params = None,
    density: options.Density = None,
    latency_ms: options.LatencyMs = None,
    batch: options.Batch = 1,
    round_to: options.RoundTo = 8,
    keep_layers: options.KeepLayers = None,
    transfer: Annotated[
        str,
        typer.Option(
            "--transfer",
            help="prompt: tune a prompt on the task. mask: take the source task's masks. selection: forward selection on the task, without a prompt.",
        ),
    ] = "prompt",
    prior: Annotated[
        str,
        typer.Option(
            "--prior",
            help="What a prompt's masks correct: scores measured on the task, or the source's.",
        ),
    ] = "task",
    budget: Annotated[str, typer.Option("--budget", help="quick or full training.")] = "quick",
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", help="Fine-tuning epochs, instead of what --budget gives."),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images per step.")] = 128,
    lr: Annotated[float, typer.Option("--lr", help="Peak learning rate of fine-tuning.")] = 0.03,
    weight_decay: Annotated[float, typer.Option("--weight-decay", help="Of fine-tuning.")] = 5e-4,
    prompt_steps: Annotated[
        int, typer.Option("--prompt-steps", help="Steps of prompt tuning.")
    ] = 150,
    prompt_lr: Annotated[
        float | None, typer.Option("--prompt-lr", help="Peak step of the prompt, in brightness.")
    ] = None,
    label_mapping: Annotated[
        str,
        typer.Option("--label-mapping", help="auto, linear (a new head), frequency or iterative."),
    ] = "auto",
    deploy_prompt: Annotated[
        bool,
        typer.Option(
            "--deploy-prompt/--no-deploy-prompt",
            help="Whether the prompt is part of the saved network.",
        ),
    ] = True,
    distill: Annotated[
        float,
        typer.Option(
            "--distill",
            help="Weight, up to 1, of learning what the dense network says, which is fine-tuned first; 0 for none.",
        ),
    ] = 0.0,
    temperature: Annotated[
        float,
        typer.Option(
            "--temperature", help="What softens the dense network's predictions for --distill."
        ),
    ] = 4.0,
    dense: Annotated[
        Path | None,
        typer.Option(
            "--dense",
            help="A run that has trained this task's dense network, instead of training it again.",
        ),
    ] = None,
    reconstruct: Annotated[
        bool,
        typer.Option(
            "--reconstruct/--no-reconstruct",
            help="Whether kept channels take over what cut ones carried, by least squares, before fine-tuning.",
        ),
    ] = True,
    with_dense: Annotated[
        bool,
        typer.Option(
            "--with-dense",
            help="Fine-tune the dense network too, by the same recipe, for comparison; with --resume also for a finished run.",
        ),
    ] = False,
    report: Annotated[
        bool,
        typer.Option(
            "--report/--no-report", help="Whether to write report.html into the run folder."
        ),
    ] = True,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    resume: options.Resume = False,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Make a small network for a task from a zoo hypernetwork.

    Tunes a prompt, turns it into channel masks, removes the channels, fine-tunes, measures and saves.

    Examples:

    \b
      pass-transfer adapt --hypernet zoo/r18_tinyimnet --task cifar100 \\
          --data-dir data/cifar100 --out runs/c100
      pass-transfer adapt --hypernet zoo/r18_tinyimnet --task digits \\
          --latency-ms 60 --batch 32 --keep-layers "layer1.*" --out runs/fast
      pass-transfer adapt --hypernet zoo/r18_tinyimnet --out runs/own \\
          --backbone mine.safetensors --task folder:~/photos --density 0.5
    """
    from pass_transfer.recipes.adapt import adapt as run

    settings = (
        options.cut(macs, params, density, latency_ms, round_to, keep_layers)
        | {"latency_batch": batch}
        | ({} if prompt_lr is None else {"prompt_lr": prompt_lr})
    )
    result = run(
        hypernet,
        task,
        out=out,
        data_dir=data_dir,
        backbone=backbone,
        transfer=transfer,
        prior=prior,
        budget=budget,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        prompt_steps=prompt_steps,
        label_mapping=label_mapping,
        deploy_prompt=deploy_prompt,
        reconstruct=reconstruct,
        distill=distill,
        temperature=temperature,
        dense=dense,
        with_dense=with_dense,
        seed=seed,
        device=device,
        precision=precision,
        resume=resume,
        force=force,
        **settings,
    )
    _show(result, report, as_json)


def _show(result: dict[str, Any], report: bool, as_json: bool) -> None:
    from pass_transfer.report import summary, write_report

    print(json.dumps(result) if as_json else summary(result))
    if report:
        page = write_report(result["run"])["report"]
        if not as_json:
            print(f"the report: {page}")
