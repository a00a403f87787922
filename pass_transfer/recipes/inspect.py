"""What a cut would leave, before anything is trained: channels, MACs, parameters, latency, and what to mind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pass_transfer.budgets.latency import check_batch
from pass_transfer.files import read_json
from pass_transfer.latency import measure_latency
from pass_transfer.progress import say
from pass_transfer.recipes.adapt import LATENCY_BATCHES, stored_prompt
from pass_transfer.scoring.own_backbone import as_in_run, read_backbone
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.training import choose_runtime
from pass_transfer.training.run_folder import CONFIG
from pass_transfer.zoo.entry import load_hypernet

MULTIPLE = 8  # channel counts that arithmetic comes in
SMALL_MAP = 16  # positions
INTENSITY = 20  # MACs for each number moved, below which a CPU waits for memory
GAIN = 0.8  # share of the MACs' ratio that a cut should make faster


def preview(
    hypernet: str | Path | PretrainedHypernet,
    *,
    run: str | Path | None = None,
    backbone: str | Path | None = None,
    classes: int | None = None,
    latency: bool = True,
    device: str = "auto",
    batch: int = 1,
    **cut: Any,
) -> dict[str, Any]:
    """Foresee a network under a budget.

    Args:
        hypernet: a zoo name, a folder, or a loaded entry.
        run: a run folder of adapt whose tuned prompt is taken; the source task's otherwise.
        backbone: a checkpoint with one's own weights, as given to adapt. Without a run, whose
            prior is taken, they are ranked by their magnitude alone.
        classes: of the task, if not the run's, or the source's without one.
        latency: whether to measure it, dense and small side by side.
        device: to measure on.
        batch: images at once that a latency_ms is for.
        cut: arguments of generate_masks: macs=, params=, density= or latency_ms=; round_to=, keep_layers=.

    Returns:
        "groups" (name, kept, width, layers), "layers" (name, positions, inputs, outputs,
        macs, parameters and each with dense_ before it), totals as in result.json,
        "estimated_speed_up" (speed_up), "latency_ms" by batch size or null, and "warnings".

    Raises:
        UsageError, MaskError: see generate_masks.
        RunError: no prompt in the run, or one with another backbone.
    """
    check_batch(batch)
    trained = hypernet if isinstance(hypernet, PretrainedHypernet) else load_hypernet(hypernet)
    entry = trained if backbone is None else read_backbone(trained, backbone)
    prompt = entry.prompt() if run is None else stored_prompt(entry, run)
    if run is not None:
        entry = as_in_run(entry, trained, run)
        classes = classes or read_json(Path(run) / CONFIG)["classes"]
    budget_is_timed = cut.get("latency_ms") is not None
    place = choose_runtime(device, "no").device if latency or budget_is_timed else None
    masks = entry.generate_masks(
        prompt,
        classes=classes,
        **({"device": place, "batch": batch} if budget_is_timed else {}),
        **cut,
    )
    table = entry.table if classes is None else entry.table.with_classes(classes)
    kept, widths = masks.kept, masks.widths
    layers = [
        {
            "name": small.name,
            "positions": small.positions,
            "inputs": small.inputs,
            "outputs": small.outputs,
            "macs": small.macs,
            "parameters": small.parameters,
            "dense_inputs": dense.inputs,
            "dense_outputs": dense.outputs,
            "dense_macs": dense.macs,
            "dense_parameters": dense.parameters,
        }
        for small, dense in zip(table.by_layer(kept), table.by_layer(widths))
    ]
    found = {
        "hypernet": entry.name,
        "prompt": "source" if run is None else str(run),
        "cut": cut,
        "image_size": entry.spec.image_size,
        "groups": [
            {
                "name": n,
                "kept": kept[n],
                "width": widths[n],
                "layers": sorted({*g.writes, *g.reads}),
            }
            for n, g in entry.groups.items()
        ],
        "layers": layers,
        "macs": table.macs(kept),
        "dense_macs": table.dense,
        "parameters": table.parameters(kept),
        "dense_parameters": table.dense_parameters,
        "estimated_speed_up": speed_up(layers),
        "latency_ms": None,
        "dense_latency_ms": None,
    }
    if latency:
        networks = {
            name: entry.network(chosen, prompt, classes).to(
                place, memory_format=torch.channels_last
            )
            for name, chosen in (("small", masks), ("dense", None))
        }
        batches = sorted({*LATENCY_BATCHES, batch})
        say(f"measuring both networks at batch {', '.join(map(str, batches))}")
        times = measure_latency(networks, entry.spec.image_size, batches)
        found |= {
            "latency_ms": {str(b): t for b, t in times["small"].items()},
            "dense_latency_ms": {str(b): t for b, t in times["dense"].items()},
        }
    return found | {"warnings": warnings(found)}


def speed_up(layers: list[dict[str, Any]]) -> float:
    """How many times as fast a cut should be, without measuring: a layer takes as long as its arithmetic, in whole multiples of channels, or what it moves, whichever is more."""

    def work(layer: dict[str, Any], which: str) -> float:
        padded = layer[f"{which}macs"]
        for end in ("inputs", "outputs"):
            padded *= -(-layer[f"{which}{end}"] // MULTIPLE) * MULTIPLE / layer[f"{which}{end}"]
        return max(padded / INTENSITY, _moved(layer, which))

    return sum(work(layer, "dense_") for layer in layers) / sum(work(layer, "") for layer in layers)


def _moved(layer: dict[str, Any], which: str = "") -> float:
    """Numbers that a layer reads and writes for one image."""
    return (
        layer["positions"] * (layer[f"{which}inputs"] + layer[f"{which}outputs"])
        + layer[f"{which}parameters"]
    )


def warnings(found: dict[str, Any]) -> list[str]:
    """Why a cut may make the network less faster than smaller."""
    said = []
    odd = [g for g in found["groups"] if g["kept"] % MULTIPLE and g["kept"] < g["width"]]
    if odd:
        said.append(
            f"{len(odd)} of {len(found['groups'])} groups keep a number of channels that is no multiple of {MULTIPLE}, which costs as much as the next one; "
            f"try --round-to {MULTIPLE}"
        )
    small = sum(layer["macs"] for layer in found["layers"] if 1 < layer["positions"] <= SMALL_MAP)
    if small > 0.2 * found["macs"]:
        said.append(
            f"{small / found['macs']:.0%} of the MACs are in maps of {SMALL_MAP} positions or fewer, where overheads weigh most at batch 1"
        )
    slow = [
        layer["name"]
        for layer in found["layers"]
        if layer["positions"] > 1 and layer["macs"] < INTENSITY * _moved(layer)
    ]
    if slow:
        said.append(
            f"bound by memory rather than arithmetic, so that fewer MACs gain little: {', '.join(slow)}"
        )
    for batch, time in (found["latency_ms"] or {}).items():
        gain, ratio = found["dense_latency_ms"][batch] / time, found["dense_macs"] / found["macs"]
        if gain < GAIN * ratio:
            said.append(
                f"at batch {batch} it runs {gain:.2f} times as fast here, with {ratio:.2f} times fewer MACs"
            )
    return said
