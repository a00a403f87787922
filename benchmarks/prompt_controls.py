"""Does the prompt matter? Masks by different prompts, before any fine-tuning.

    python benchmarks/prompt_controls.py --data-dir ../shared/data/cifar100

Tunes a prompt on the task and one on digits. Prints the share of channels that differ
between the masks of the source's, the task's and the digits' prompt, and the task's
held-out accuracy after removal, BatchNorm recalibration and a linear probe, under the
masks of its own prompt, a zero, a shuffled, a random, the source's and the digits'.
"""

from __future__ import annotations

import argparse

import torch

import pass_transfer as pt
from pass_transfer.files import make_folder, write_json
from pass_transfer.prompts import Prompt
from pass_transfer.recipes.shrink import shrink
from pass_transfer.recipes.tune_prompt import PromptConfig, tune_prompt
from pass_transfer.tasks import load_task
from pass_transfer.training import choose_runtime, evaluate

from provenance import provenance


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
    frame[inside] = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))]
    return with_frame(prompt, frame)


def main() -> None:
    """Tune, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hypernet", default="zoo/r18_tinyimnet")
    parser.add_argument("--task", default="cifar100")
    parser.add_argument("--data-dir")
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompt-steps", type=int, default=PromptConfig.steps)
    parser.add_argument("--out", default="benchmarks/results")
    options = parser.parse_args()
    entry, runtime = pt.load_hypernet(options.hypernet), choose_runtime()
    task = load_task(options.task, entry.spec.image_size, options.data_dir)
    config = PromptConfig(steps=options.prompt_steps, seed=options.seed)
    own, digits, source = tune_prompt(entry, task, config=config), tune_prompt(entry, "digits", config=config), entry.prompt()
    prompts = {"own": own, "zero": with_frame(own, torch.zeros_like(own.values)), "shuffled": shuffled(own, options.seed),
               "random": Prompt(own.kind, own.size, own.pad, seed=9999), "source": source, "digits": digits}
    masks = {name: entry.generate_masks(p, macs=options.macs, classes=task.classes) for name, p in prompts.items()}
    accuracy = {}
    for name, mask in masks.items():
        network = shrink(entry.backbone(), entry.groups, mask, entry.spec.mean, entry.spec.std, None, task, "linear", runtime, options.seed)
        accuracy[name] = evaluate(network, task.held_out, runtime).top1
    differ = {f"{a} / {b}": masks[a].difference(masks[b]) for a, b in (("own", "source"), ("own", "digits"), ("source", "digits"))}
    result = {"task": options.task, "macs": options.macs, "seed": options.seed, "held_out_top1_before_finetuning": accuracy,
              "channels_that_differ": differ, "channels_that_differ_from_own": {n: masks["own"].difference(m) for n, m in masks.items()},
              "fingerprint": entry.config["fingerprint"], **provenance()}
    write_json(make_folder(options.out) / f"prompt_controls-{options.task}-{options.seed}.json", result)
    print("| masks by the prompt | held-out top-1 before fine-tuning (%) | channels unlike its own prompt's (%) |\n|---|---|---|")
    for name, value in accuracy.items():
        print(f"| {name} | {value:.2f} | {100 * masks['own'].difference(masks[name]):.1f} |")
    print("\n" + "; ".join(f"{pair}: {100 * share:.1f} % of the channels differ" for pair, share in differ.items()))


if __name__ == "__main__":
    main()
