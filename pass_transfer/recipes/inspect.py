"""What a cut would leave, before anything is trained.

Channels, MACs, parameters, latency, and what would keep the network from being faster.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pass_transfer.errors import UsageError
from pass_transfer.latency import measure_latency
from pass_transfer.masks import ChannelMasks
from pass_transfer.networks import ChannelGroup, CostTable
from pass_transfer.networks.pretrained import PretrainedBackbone
from pass_transfer.networks.spec import MOST_CLASSES
from pass_transfer.preprocessing import Preprocessing
from pass_transfer.progress import say
from pass_transfer.recipes.adapter import LATENCY_BATCHES
from pass_transfer.recipes.given_network import AskedNetwork, GivenNetwork, choose_network
from pass_transfer.recipes.options import check_image_size, refuse_unknown, take, take_budget
from pass_transfer.runs.files import read_config
from pass_transfer.runs.found import found_in_run
from pass_transfer.scoring.magnitude import group_l1
from pass_transfer.scoring.method import Found
from pass_transfer.scoring.pretrained import PretrainedHypernet, cut_network
from pass_transfer.scoring.prior import standardise
from pass_transfer.settings import shown, whole
from pass_transfer.surroundings import as_guest
from pass_transfer.tasks import load_task
from pass_transfer.training import choose_runtime

DATA_SIZE = 64  # pixels at which images are looked at without a network: those of the zoo's entry
CLASSES = whole(1, MOST_CLASSES)
MULTIPLE = 8  # channel counts that arithmetic comes in
SMALL_MAP = 16  # positions
INTENSITY = 20  # MACs for each number moved, below which a CPU waits for memory
GAIN = 0.8  # share of the MACs' ratio that a cut should make faster
DENSE_SIZES = ("inputs", "outputs", "macs", "parameters")


@as_guest
def inspect_task(
    task: str,
    *,
    image_size: int | None = None,
    preprocessing: Preprocessing | None = None,
    data_dir: str | None = None,
) -> dict[str, Any]:
    """What is understood of a task's data, before anything is trained on it.

    Args:
        task, data_dir: see load_task.
        image_size: side in pixels at which the images are looked at; 64 without it.
        preprocessing: what a network makes of an image, in place of image_size.

    Returns:
        "task", "image_size", "preprocessing" (what becomes of an image), "data" as result.json
        has it, and "class_images": images of each class to train on, to choose by and to test on.

    Raises:
        TaskError, UsageError: see load_task.
    """
    check_image_size(image_size)
    data = load_task(task, preprocessing or image_size or DATA_SIZE, data_dir)
    splits = (data.train, data.held_out, data.test)
    counts = [np.bincount(split.labels, minlength=data.classes).tolist() for split in splits]
    return {
        "task": task,
        "image_size": data.size,
        "preprocessing": data.preprocessing.saved(),
        "data": data.overview.saved(),
        "class_images": dict(zip(data.class_names, map(list, zip(*counts)))),
    }


@as_guest
def inspect(
    hypernet: str | Path | PretrainedHypernet | None = None,
    *,
    run: str | Path | None = None,
    backbone: str | Path | None = None,
    classes: int | None = None,
    latency: bool = True,
    device: str = "auto",
    **options: Any,
) -> dict[str, Any]:
    """Foresee a network under a budget.

    Args:
        hypernet: a zoo name, a folder, or a loaded entry.
        run: a run folder of adapt whose channel scores are taken. Otherwise they are those of
            the source task's prompt; of a network without a hypernetwork, or with a backbone of
            one's own, their magnitude.
        backbone: a checkpoint with one's own weights, as given to adapt.
        classes: of the task, if not the run's, or the source's without one.
        latency, device: whether to measure both networks side by side, and where.
        options: network=, weights= and image_size= in place of hypernet, as of adapt; the
            budget, as budget= or as the arguments of Budget (default: macs=0.5).

    Returns:
        "hypernet" (or null), "network" (where named), "image_size", "preprocessing" (what the
        network makes of an image), "groups" (name, kept, width, unit, channels of a unit,
        layers), "kept_whole" (why channels cannot go, by the layer that makes them), "layers"
        (name, positions, inputs, outputs, macs, parameters, and each with dense_ before it),
        totals as in result.json, "estimated_speed_up", "latency_ms" or null, "warnings".

    Raises:
        UsageError, MaskError: see AskedNetwork, Budget and Budget.cut.
        RunError: no scores in the run, or one with another backbone.
    """
    budget = take_budget(options)
    options |= {"hypernet": hypernet, "backbone": backbone}
    asked = take(AskedNetwork, options)
    refuse_unknown(options, "inspect")
    if asked.from_run is not None:
        raise UsageError("inspect is for whole networks, not for one that was cut (from_run)")
    if classes is not None and not CLASSES.fits(classes):
        raise UsageError(f"classes is {shown(classes)}; it is {CLASSES.words}", "classes")
    given = choose_network(asked)
    dense = given.dense
    if run is None:
        found = _before_any_run(given)
    else:
        found, budget = _of_run(given, Path(run)), budget.filled()
        classes = classes or read_config(Path(run))["classes"]
    place = _place(device, latency or budget.kind == "latency_ms")
    prompt = found.prompt if found.deployed else None
    target = cut_network(dense, prompt, classes, place)
    masks = budget.cut(found.scores, target)
    seen = _named(given) | _costs(dense, target.table, masks) | {"cut": budget.saved()}
    seen["prompt"] = _scored_by(given) if run is None else str(run)
    if latency:
        whole = _placed(dense.network(None, prompt, classes), place)
        networks = {"latency_ms": target.build(masks), "dense_latency_ms": whole}
        seen |= _latencies(networks, dense.spec.image_size, budget.batch)
    return seen | {"warnings": warnings(seen)}


def _latencies(networks: dict[str, nn.Module], size: int, batch: int) -> dict[str, Any]:
    """Milliseconds of each network by batch size, as JSON has it."""
    batches = sorted({*LATENCY_BATCHES, batch})
    say(f"measuring both networks at batch {', '.join(map(str, batches))}")
    times = measure_latency(networks, size, batches)
    return {name: {str(b): ms for b, ms in times[name].items()} for name in networks}


def _place(device: str, measured: bool) -> torch.device:
    """Where networks are measured, if they are."""
    return choose_runtime(device, "no").device if measured else torch.device("cpu")


def _before_any_run(given: GivenNetwork) -> Found:
    """What the source task's prompt gives; without a hypernetwork, magnitudes of one spread."""
    if given.hypernet is None:
        return Found(standardise(group_l1(given.dense.module, given.dense.groups)))
    prompt = given.hypernet.prompt()
    return Found(given.hypernet.scores(prompt), prompt, deployed=True)


def _scored_by(given: GivenNetwork) -> str:
    """What the scores are of, without a run."""
    return "magnitude" if given.hypernet is None else "source"


def _of_run(given: GivenNetwork, run: Path) -> Found:
    """What a run found."""
    found = found_in_run(given.identity, given.hypernet, run)
    deployed = read_config(run)["settings"].get("deploy_prompt", False)
    return dataclasses.replace(found, deployed=deployed)


def _named(given: GivenNetwork) -> dict[str, Any]:
    """The zoo entry, and the network where one was named."""
    name = None if given.hypernet is None else given.hypernet.name
    return {"hypernet": name} | ({} if given.network is None else {"network": given.network})


def _placed(network: nn.Module, device: torch.device) -> nn.Module:
    return network.to(device).to(memory_format=torch.channels_last)


def _costs(dense: PretrainedBackbone, table: CostTable, masks: ChannelMasks) -> dict[str, Any]:
    """What can be said of a cut without measuring."""
    kept, widths = masks.kept, masks.widths
    groups = []
    for name, group in dense.groups.items():
        members = sorted({*group.writes, *group.reads})
        sizes = {"kept": kept[name], "width": widths[name], "unit": _unit(group)}
        groups.append({"name": name, **sizes, "channels": _channels(group), "layers": members})
    layers: list[dict[str, Any]] = []
    for small, whole_layer in zip(table.by_layer(kept), table.by_layer(widths)):
        sizes = vars(small)
        before = {f"dense_{name}": vars(whole_layer)[name] for name in DENSE_SIZES}
        layers.append({**sizes, **before})
    return {
        "image_size": dense.spec.image_size,
        "preprocessing": dense.spec.preprocessing.saved(),
        "groups": groups,
        "kept_whole": dense.groups.kept_whole,
        "layers": layers,
        "macs": table.macs(kept),
        "dense_macs": table.dense,
        "parameters": table.parameters(kept),
        "dense_parameters": table.dense_parameters,
        "estimated_speed_up": speed_up(layers),
        "latency_ms": None,
        "dense_latency_ms": None,
    }


def _unit(group: ChannelGroup) -> str:
    """What is kept or removed: heads of attention multiply activations with each other."""
    return "head" if group.products else "channel"


def _channels(group: ChannelGroup) -> int:
    """How many channels of a layer a unit has."""
    of_layers = [
        int((units >= 0).sum()) for units in [*group.writes.values(), *group.reads.values()]
    ]
    return max(1, min(of_layers) // group.width)


def speed_up(layers: list[dict[str, Any]]) -> float:
    """How many times as fast a cut should be, without measuring.

    A layer takes as long as its arithmetic, in whole multiples of channels, or as what it
    moves, whichever is more.
    """

    def work(layer: dict[str, Any], which: str) -> float:
        padded = layer[f"{which}macs"]
        for end in ("inputs", "outputs"):
            channels = layer[f"{which}{end}"]
            padded *= -(-channels // MULTIPLE) * MULTIPLE / channels
        return max(padded / INTENSITY, _moved(layer, which))

    dense = sum(work(layer, "dense_") for layer in layers)
    return dense / sum(work(layer, "") for layer in layers)


def _moved(layer: dict[str, Any], which: str = "") -> float:
    """Numbers that a layer reads and writes for one image."""
    channels = layer[f"{which}inputs"] + layer[f"{which}outputs"]
    return layer["positions"] * channels + layer[f"{which}parameters"]


def warnings(found: dict[str, Any]) -> list[str]:
    """Why a cut may make the network less faster than smaller."""
    return [*_odd_widths(found), *_small_maps(found), *_memory_bound(found), *_slower(found)]


def _odd_widths(found: dict[str, Any]) -> list[str]:
    groups = found["groups"]
    cut = [g for g in groups if g["kept"] < g["width"]]
    odd = [g for g in cut if g["kept"] * g["channels"] % MULTIPLE]
    if not odd:
        return []
    return [
        f"{len(odd)} of {len(groups)} groups keep a number of channels that is no multiple of "
        f"{MULTIPLE}, which costs as much as the next one; round to multiples of {MULTIPLE}"
    ]


def _small_maps(found: dict[str, Any]) -> list[str]:
    small = sum(layer["macs"] for layer in found["layers"] if 1 < layer["positions"] <= SMALL_MAP)
    if small <= 0.2 * found["macs"]:
        return []
    return [
        f"{small / found['macs']:.0%} of the MACs are in maps of {SMALL_MAP} positions or fewer, "
        f"where overheads weigh most at batch 1"
    ]


def _memory_bound(found: dict[str, Any]) -> list[str]:
    maps = [layer for layer in found["layers"] if layer["positions"] > 1]
    slow = [layer["name"] for layer in maps if layer["macs"] < INTENSITY * _moved(layer)]
    if not slow:
        return []
    said = "bound by memory rather than arithmetic, so that fewer MACs gain little"
    return [f"{said}: {', '.join(slow)}"]


def _slower(found: dict[str, Any]) -> list[str]:
    said, ratio = [], found["dense_macs"] / found["macs"]
    for batch, milliseconds in (found["latency_ms"] or {}).items():
        gain = found["dense_latency_ms"][batch] / milliseconds
        if gain < GAIN * ratio:
            said.append(
                f"at batch {batch} it runs {gain:.2f} times as fast here, with {ratio:.2f} times "
                f"fewer MACs"
            )
    return said
