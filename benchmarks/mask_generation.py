"""What the hypernetwork costs in a search step.

That is prompt to scores to masks and back, against the masked network's step.

    python benchmarks/mask_generation.py --sizes 224 --batch 128

Prints and writes the share of a step that generating the masks and taking the gradient to
the prompt through the hypernetwork adds (arXiv 2407.17412 reports 3.1 % to 16.7 %).
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial

import torch
from provenance import provenance
from search_step import Problem

from pass_transfer import ops
from pass_transfer.files import make_folder, write_json
from pass_transfer.latency import interleave
from pass_transfer.prompts import Prompt, default_pad
from pass_transfer.scoring.hypernet import Hypernet, HypernetConfig


def make_masks(hypernet: Hypernet, prompt: Prompt, problem: Problem) -> None:
    """Masks from a prompt, and the gradient back to it."""
    scores = hypernet(prompt.frame())
    mask = ops.global_topk_mask(scores, problem.offsets, problem.k, problem.floors).mask
    mask.backward(torch.ones_like(mask))


def main() -> None:
    """Measure both in turn and print their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 224])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--density", type=float, default=0.5)
    parser.add_argument("--precision", default="float32", choices=("float32", "bf16"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", default="benchmarks/results/mask_generation")
    given = parser.parse_args()
    for size in given.sizes:
        problem = Problem(
            given.model, size, given.density, given.precision, given.batch, given.device
        )
        hypernet = (
            Hypernet(HypernetConfig(), problem.backbones["nchw"].cpu(), problem.groups)
            .to(problem.device)
            .requires_grad_(False)
        )
        problem.backbones["nchw"].to(problem.device)
        prompt = Prompt("additive", size, default_pad(size)).to(problem.device)
        step = problem.ours("channels_last", "exact")

        generate = partial(make_masks, hypernet, prompt, problem)
        origin, variants = provenance(), {"masks": generate, "step": step}
        times = interleave(variants, given.rounds, problem.device, warm_up=1)
        found = {name: statistics.median(values) for name, values in times.items()}
        share = found["masks"] / found["step"]
        if given.out:
            write_json(
                make_folder(given.out)
                / f"{given.model}-{size}-{given.precision}-{problem.device.type}.json",
                vars(given)
                | {
                    "sizes": size,
                    "milliseconds": found,
                    "share": share,
                    "kernels": ops.kernels.chosen().reason,
                }
                | origin,
            )
        print(
            f"{given.model} at {size} px, batch {given.batch}: masks {found['masks']:.1f} ms, "
            f"step {found['step']:.0f} ms, {share:.2%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
