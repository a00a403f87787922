"""Options that several verbs share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pass_transfer.errors import UsageError

Option = typer.Option
ROUND_TO = 8  # pass_transfer.budgets.ROUND_TO, which would import torch; a test compares them

METHOD_HELP = (
    "How channels are chosen. prompt: tune a prompt on the task. mask: the source task's masks. "
    "selection: forward selection on the task. Or random, group_l1, group_l2, uniform_l1, taylor, "
    "uniform_taylor, taylor_l1, chip, variance, source_selection, nearest_tasks, fused, "
    "learned_score, vpns, pass_from_scratch, slim, group_l1_sparse, growreg, depgraph, abc. The "
    "default is prompt, or selection with --network or --from. Single weights have methods of "
    "their own, by default magnitude (pass-transfer methods --unit weight)."
)

Unit = Annotated[
    str,
    typer.Option(
        "--unit",
        help="What goes: channel, or weight for single weights, which become zeros: a smaller "
        "file, and no faster network by itself.",
    ),
]

Task = Annotated[
    str,
    Option(
        "--task",
        help="digits, cifar10, cifar100, tiny-imagenet, dtd, stanford-cars, food101, or "
        "folder:PATH with one folder of images per class.",
    ),
]
DataDir = Annotated[
    str | None,
    Option("--data-dir", help="Folder with the task's parquet files, instead of downloading it."),
]
ImageSize = Annotated[
    int | None,
    Option(
        "--image-size",
        metavar="PIXELS",
        help="Side of an image in pixels, up to 512, for --network, if not that of its weights. "
        "A zoo entry, a run and a backbone have their own, and no other is taken.",
    ),
]
Out = Annotated[Path, Option("--out", help="Run folder to write.")]
Device = Annotated[str, Option("--device", help="auto, cpu, cuda or mps.")]
Precision = Annotated[str, Option("--precision", help="auto, bf16, or no for float32.")]
Seed = Annotated[
    int,
    Option("--seed", help="Seed of the images' order, their augmentation, and initial values."),
]
Resume = Annotated[bool, Option("--resume", help="Continue the run in --out.")]
Force = Annotated[bool, Option("--force", help="Replace the run in --out.")]
Json = Annotated[bool, Option("--json", help="Print the result as one JSON object on stdout.")]
Repository = Annotated[
    str, typer.Argument(help="owner/name on the Hugging Face hub.", metavar="OWNER/NAME")
]
Private = Annotated[bool, Option("--private", help="Make the repository a private one.")]
License = Annotated[
    str | None,
    Option(
        "--license",
        help="License of the weights as the hub names it, such as mit. Without it, that of the "
        "card, or unknown.",
    ),
]
HYPERNET = Option("--hypernet", help="Zoo entry: a name, a folder, or hf-hub:owner/name.")
Hypernet = Annotated[str, HYPERNET]
OptionalHypernet = Annotated[str | None, HYPERNET]
FromRun = Annotated[
    Path | None,
    Option(
        "--from",
        help="A finished run whose small network is cut again, instead of --hypernet. It takes "
        "the dense network's place: a share is a share of it.",
    ),
]
Backbone = Annotated[
    Path | None,
    Option(
        "--backbone",
        help="Your own weights of the entry's architecture (.safetensors), instead of the entry's.",
    ),
]
Network = Annotated[
    str | None,
    Option(
        "--network",
        help="A network by its name, in place of a zoo entry's: torchvision's (resnet50) or "
        "timm's (timm/convnext_tiny).",
    ),
]
Weights = Annotated[
    str | None,
    Option(
        "--weights",
        help="Of --network: a file (.safetensors, .pth), a torchvision weight name or a tag of "
        "timm's. The default ones are downloaded without it.",
    ),
]
Settings = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="KEY=VALUE",
        help="A setting of the method, such as steps=50; can be given several times. "
        "pass-transfer methods NAME lists them.",
    ),
]
Macs = Annotated[
    str | None,
    Option(
        "--macs",
        help="Share of the dense network's MACs to keep (default 0.5), or an amount, such as 70M "
        "or 1.2G.",
    ),
]
Params = Annotated[
    str | None,
    Option("--params", help="Share or amount of the parameters to keep, instead of --macs."),
]
Density = Annotated[
    float | None, Option("--density", help="Share of all channels to keep, instead of --macs.")
]
LatencyMs = Annotated[
    float | None,
    Option(
        "--latency-ms",
        help="Milliseconds that --batch images may take on --device, measured here, instead of "
        "--macs.",
    ),
]
Batch = Annotated[
    int, Option("--batch", "--latency-batch", help="Images at once that --latency-ms is for.")
]
RoundTo = Annotated[
    int,
    Option(
        "--round-to",
        help="Every layer keeps a multiple of this many channels, or all: arithmetic comes in "
        "steps of 8 or 16. 1 keeps just the best.",
    ),
]
KeepLayers = Annotated[
    list[str] | None,
    Option(
        "--keep-layers",
        help="Layers to leave alone, by name or pattern; can be given several times.",
    ),
]


# The bounds of a budget, by the name of their kind (budgets/kinds.py).
BOUNDS: dict[str, Any] = {
    "macs": Macs,
    "params": Params,
    "density": Density,
    "latency_ms": LatencyMs,
}
HOW: dict[str, tuple[Any, Any]] = {
    "batch": (Batch, 1),
    "round_to": (RoundTo, ROUND_TO),
    "keep_layers": (KeepLayers, None),
}


def takes_budget(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options of a budget in place of its argument `budget`.

    The verb gets them as the arguments of Budget.
    """
    added = [_option(name, kind, None) for name, kind in BOUNDS.items()]
    added += [_option(name, kind, default) for name, (kind, default) in HOW.items()]
    whole: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(verb, eval_str=True).parameters.items():
        whole += added if name == "budget" else [parameter]

    @functools.wraps(verb)
    def run(**given: Any) -> None:
        bounds = {name: given.pop(name) for name in BOUNDS}
        how = {name: given.pop(name) for name in HOW}
        how["keep_layers"] = tuple(how["keep_layers"] or ())
        verb(**given, budget=only_bound(bounds) | how)

    run.__signature__ = inspect.Signature(whole)  # type: ignore[attr-defined]  # read by typer
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in whole}
    del run.__wrapped__  # whose signature typer would read
    return run


def _option(name: str, kind: Any, default: Any) -> inspect.Parameter:
    place = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(name, place, default=default, annotation=kind)


def only_bound(bounds: dict[str, Any]) -> dict[str, Any]:
    """The bound that is given, if one is. Raises UsageError for several."""
    given = {name: value for name, value in bounds.items() if value is not None}
    if len(given) > 1:
        flags = [f"--{name.replace('_', '-')} {value}" for name, value in given.items()]
        raise UsageError(f"give exactly one budget; here are {' and '.join(flags)}")
    return given


def settings(given: list[str] | None) -> dict[str, Any]:
    """What --set gives: names with values as YAML reads them. Raises UsageError."""
    import yaml

    found = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {text}: give KEY=VALUE, such as --set steps=50")
        try:
            found[name.replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {text}: this value cannot be read") from error
    return found
