"""Average the weights of backbones fine-tuned from one start, as model soups do (arXiv 2203.05482).

    python benchmarks/average_backbones.py runs/a runs/b \\
        --data-dir ../shared/data/tiny-imagenet --out runs/backbone

Each folder is one that `pass-transfer finetune` wrote, for the same task; so is --out.
BatchNorm is measured again on training images. Prints held-out and test accuracy of the
average as stored; the test images are looked at once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from provenance import provenance

from pass_transfer.files import make_folder, read_json, read_tensors, write_json, write_tensors
from pass_transfer.networks import BackboneSpec, build_backbone
from pass_transfer.networks.network import Network
from pass_transfer.recipes.finetune import half_precision
from pass_transfer.shrinking.recalibrate import recalibrate
from pass_transfer.tasks import load_task
from pass_transfer.training import choose_runtime, evaluate


def main() -> None:
    """Average, recalibrate, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--data-dir")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    start = time.monotonic()
    notes = [read_json(folder / "backbone.json") for folder in options.folders]
    states = [read_tensors(folder / "backbone.safetensors") for folder in options.folders]
    spec = BackboneSpec.from_saved(notes[0]["spec"])
    runtime = choose_runtime()
    task = load_task(notes[0]["task"], spec.preprocessing, options.data_dir)
    network = Network(build_backbone(spec), spec.mean, spec.std)
    network.backbone.load_state_dict(half_precision(mean_state(states)))
    recalibrate(runtime.place(network), task.train, runtime, images=16384)
    stored = half_precision(network.backbone.state_dict())
    network.backbone.load_state_dict(stored)
    held_out = evaluate(network, task.held_out, runtime)
    test = evaluate(network, task.test, runtime)
    write_tensors(make_folder(options.out) / "backbone.safetensors", stored)
    seconds = round(time.monotonic() - start, 1)
    note = notes[0] | {
        "top1": test.top1,
        "top5": test.top5,
        "held_out_top1": held_out.top1,
        "seconds": seconds + sum(note["seconds"] for note in notes),
        "config": {"recipe": "average", "of": [note["config"] for note in notes]},
        "provenance": provenance(),
    }
    write_json(options.out / "backbone.json", note)
    print(
        f"held out {held_out.top1:.2f} %, test top-1 {test.top1:.2f} %, "
        f"top-5 {test.top5:.2f} % as stored in {options.out}"
    )


def mean_state(states: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The mean of every weight; counts are the first network's."""
    mean = {}
    for name, tensor in states[0].items():
        if tensor.is_floating_point():
            tensor = torch.stack([state[name].float() for state in states]).mean(0)
        mean[name] = tensor
    return mean


if __name__ == "__main__":
    main()
