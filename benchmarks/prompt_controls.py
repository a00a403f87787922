"""Does the prompt matter? Masks by different prompts, before any fine-tuning.

    python benchmarks/prompt_controls.py --data-dir ../shared/data/cifar100

Tunes a prompt on the task and one on digits. Prints the share of channels that differ
between the masks of the source's, the task's and the digits' prompt, and the task's
held-out accuracy after removal, BatchNorm recalibration and a linear probe, under the
masks of its own prompt, a zero, a shuffled, a random, the source's and the digits';
mean and standard deviation over seeds, and the same of the differences.
"""

from __future__ import annotations

import functools

import torch
from cells import make_cell, options, spread

import pass_transfer as pt
from pass_transfer.prompts import Prompt
from pass_transfer.scoring.prompt_tuning import PromptConfig, tune_prompt
from pass_transfer.shrinking.shrink import ShrinkConfig, shrink
from pass_transfer.tasks import load_task
from pass_transfer.training import choose_runtime, evaluate


def with_frame(prompt: Prompt, frame: torch.Tensor) -> Prompt:
    """A prompt of the same shape with another frame."""
    other = Prompt(prompt.kind, prompt.size, prompt.pad)
    with torch.no_grad():
        other.values.copy_(frame)
    return other


def shuffled(prompt: Prompt, seed: int) -> Prompt:
    """The prompt's own values in other places of the frame."""
    inside = prompt.border.bool().expand(3, -1, -1)
    frame = torch.zeros_like(prompt.frame())
    values = prompt.frame().detach()[inside]
    draw = torch.Generator().manual_seed(seed)
    frame[inside] = values[torch.randperm(len(values), generator=draw)]
    return with_frame(prompt, frame)


def run_cell(seed: int, entry, task, digits, runtime, macs: float, steps: int) -> dict:
    """Prompts tuned with one seed, their masks, and the task's accuracy under each."""
    config = PromptConfig(steps=steps, seed=seed)
    own, other = tune_prompt(entry, task, config=config), tune_prompt(entry, digits, config=config)
    prompts = {
        "its own": own,
        "zero": with_frame(own, torch.zeros_like(own.values)),
        "its own, shuffled": shuffled(own, seed),
        "random": Prompt(own.kind, own.size, own.pad, seed=9999 + seed),
        "source": entry.prompt(),
        "digits": other,
    }
    budget, masks = pt.Budget(macs=macs, round_to=1), {}
    for name, prompt in prompts.items():
        masks[name] = entry.generate_masks(prompt, budget, classes=task.classes)
    plain, accuracy = ShrinkConfig(reconstruct=False, seed=seed), {}
    for name, mask in masks.items():
        network = shrink(entry.dense, entry.groups, mask, None, task, plain, runtime)
        accuracy[name] = evaluate(network, task.held_out, runtime).top1
    pairs = (("its own", "source"), ("its own", "digits"), ("source", "digits"))
    return {
        "task": task.name,
        "macs": macs,
        "seed": seed,
        "prompt_steps": steps,
        "held_out_top1_before_finetuning": accuracy,
        "differ": {f"{a} / {b}": masks[a].difference(masks[b]) for a, b in pairs},
        "differ_from_own": {n: masks["its own"].difference(m) for n, m in masks.items()},
        "entry": entry.fingerprint(),
    }


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = options(__doc__, "benchmarks/results/prompt_controls")
    parser.add_argument("--prompt-steps", type=int, default=PromptConfig.steps)
    given = parser.parse_args()
    entry, runtime = pt.load_hypernet(given.hypernet), choose_runtime()
    seen, cells = entry.spec.preprocessing, []
    task, digits = load_task(given.task, seen, given.data_dir), load_task("digits", seen)
    shared = (entry, task, digits, runtime, given.macs, given.prompt_steps)
    for seed in given.seeds:
        measure = functools.partial(run_cell, seed, *shared)
        cells.append(make_cell(given.out, f"{given.task}-{given.macs}-{seed}", measure))
    columns = ("masks by the prompt", "held-out top-1 before fine-tuning (%)")
    columns += ("its own prompt's minus this", "channels unlike its own prompt's (%)")
    print(f"| {' | '.join(columns)} |\n|---|---|---|---|")
    accuracy = [c["held_out_top1_before_finetuning"] for c in cells]
    for name in accuracy[0]:
        top1 = spread([a[name] for a in accuracy])
        behind = spread([a["its own"] - a[name] for a in accuracy])
        unlike = spread([100 * c["differ_from_own"][name] for c in cells], 1)
        print(f"| {name} | {top1} | {behind} | {unlike} |")
    print()
    for pair in cells[0]["differ"]:
        unlike = spread([100 * c["differ"][pair] for c in cells], 1)
        print(f"{pair}: {unlike} % of the channels differ")


if __name__ == "__main__":
    main()
