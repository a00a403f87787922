"""The verb adapt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pass_transfer.cli import options
from pass_transfer.cli.options import Option


@options.takes_budget
def adapt(
    task: options.Task,
    out: options.Out,
    hypernet: options.OptionalHypernet = None,
    network: options.Network = None,
    weights: options.Weights = None,
    image_size: options.ImageSize = None,
    from_run: options.FromRun = None,
    data_dir: options.DataDir = None,
    backbone: options.Backbone = None,
    method: Annotated[str | None, Option("--method", help=options.METHOD_HELP)] = None,
    set_: options.Settings = None,
    budget: Any = None,
    images_per_class: Annotated[
        int | None,
        Option(
            "--images-per-class",
            metavar="N",
            help="Use N training images of each class, drawn by the seed, and a ninth as many to "
            "choose epochs by. All without it.",
        ),
    ] = None,
    unit: options.Unit = "channel",
    sparsity: Annotated[
        float | None,
        Option("--sparsity", help="Share of single weights that goes, such as 0.9."),
    ] = None,
    pattern: Annotated[
        str | None,
        Option("--pattern", help="Single weights kept of every few, such as 2:4."),
    ] = None,
    effort: Annotated[str, Option("--effort", help="quick or full training.")] = "quick",
    epochs: Annotated[
        int | None, Option("--epochs", help="Fine-tuning epochs, instead of what --effort gives.")
    ] = None,
    batch_size: Annotated[int, Option("--batch-size", help="Images in a training step.")] = 128,
    lr: Annotated[float, Option("--lr", help="Peak learning rate of fine-tuning.")] = 0.03,
    weight_decay: Annotated[
        float, Option("--weight-decay", help="Weight decay of fine-tuning.")
    ] = 5e-4,
    label_mapping: Annotated[
        str,
        Option("--label-mapping", help="auto, linear (a new classifier), frequency or iterative."),
    ] = "auto",
    measuring: Annotated[
        str,
        Option(
            "--measuring",
            help="The classifier that channels are measured with: fixed, cross-validated (chosen "
            "on images left out), or auto: cross-validated where a class has few images.",
        ),
    ] = "auto",
    dense_epochs: Annotated[
        int,
        Option(
            "--dense-epochs",
            help="Epochs of the dense network on the task before it is scored and cut. 0 cuts it "
            "as it comes.",
        ),
    ] = 0,
    distill: Annotated[
        float,
        Option(
            "--distill",
            help="Share of the loss, up to 1, in which the small network learns what the dense "
            "one says. The dense one is fine-tuned first. 0 leaves it out.",
        ),
    ] = 0.0,
    temperature: Annotated[
        float, Option("--temperature", help="Softens the dense predictions for --distill.")
    ] = 4.0,
    dense: Annotated[
        Path | None,
        Option("--dense", help="A run whose dense network of this task is taken."),
    ] = None,
    reconstruct: Annotated[
        bool,
        Option(
            "--reconstruct/--no-reconstruct",
            help="Whether kept channels take over what cut ones carried, by least squares.",
        ),
    ] = True,
    with_dense: Annotated[
        bool,
        Option(
            "--with-dense",
            help="Fine-tune the dense network too, by the same recipe, for comparison. With "
            "--resume also for a finished run.",
        ),
    ] = False,
    report: Annotated[
        bool, Option("--report/--no-report", help="Whether to write report.html.")
    ] = True,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    resume: options.Resume = False,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Make a small network for a task.

    Scores the channels by a method, cuts the network at a budget, fine-tunes, measures and saves.

    Examples:

    \b
      pass-transfer adapt --hypernet zoo/r18_tinyimnet --task cifar100 \\
          --data-dir data/cifar100 --out runs/c100
      pass-transfer adapt --network resnet18 --weights mine.safetensors \\
          --image-size 64 --task folder:~/photos --out runs/photos
      pass-transfer adapt --hypernet zoo/r18_tinyimnet --task digits \\
          --latency-ms 60 --batch 32 --keep-layers "layer1.*" --out runs/fast
      pass-transfer adapt --hypernet zoo/r18_tinyimnet --out runs/own \\
          --backbone mine.safetensors --task folder:~/photos --density 0.5
      pass-transfer adapt --hypernet zoo/r18_tinyimnet --task digits \\
          --method taylor --set images=512 --macs 0.4 --out runs/taylor
      pass-transfer adapt --from runs/c100 --task cifar100 \\
          --data-dir data/cifar100 --macs 0.5 --out runs/smaller
      pass-transfer adapt --hypernet zoo/r18_tinyimnet --task digits \\
          --unit weight --method vpns --sparsity 0.9 --out runs/sparse
    """
    from pass_transfer.recipes.adapt import adapt as run

    result = run(
        hypernet,
        task,
        out=out,
        data_dir=data_dir,
        network=network,
        weights=weights,
        image_size=image_size,
        backbone=backbone,
        from_run=from_run,
        dense=dense,
        method=method,
        settings=options.settings(set_),
        images_per_class=images_per_class,
        unit=unit,
        sparsity=sparsity,
        pattern=pattern,
        effort=effort,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        label_mapping=label_mapping,
        measuring=measuring,
        reconstruct=reconstruct,
        dense_epochs=dense_epochs,
        distill=distill,
        temperature=temperature,
        with_dense=with_dense,
        seed=seed,
        device=device,
        precision=precision,
        resume=resume,
        force=force,
        **budget,
    )
    _show(result, report, as_json)


def _show(result: dict[str, Any], report: bool, as_json: bool) -> None:
    from pass_transfer.report import summary, write_report

    print(json.dumps(result) if as_json else summary(result))
    if report:
        page = write_report(result["run"])["report"]
        if not as_json:
            print(f"the report: {page}")
