"""PASS: masks from the source as they are, from a prompt tuned on the task, and from a hypernetwork searched on the task itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pass_transfer.hypernet import Hypernet, HypernetConfig, make_prior
from pass_transfer.prompts import Prompt
from pass_transfer.recipes.checks import check_positive, check_whole
from pass_transfer.recipes.search import SearchConfig, search
from pass_transfer.recipes.task_importance import task_importance
from pass_transfer.recipes.tune_prompt import PromptConfig, tune
from pass_transfer.study.methods.method import Context, Found, Method
from pass_transfer.zoo.entry import PretrainedHypernet


@dataclass(frozen=True)
class TransferSettings:
    """steps and lr of prompt tuning, the weight of its gradient as pixels, and whether the prompt stays in the image when the network is fine-tuned and used."""

    steps: int = PromptConfig.steps
    lr: float = PromptConfig.lr
    image_share: float = PromptConfig.image_share
    deploy_prompt: bool = False

    def __post_init__(self) -> None:
        check_whole(self, steps=0)
        check_positive(self, "lr")


@dataclass(frozen=True)
class ScratchSettings:
    """A search on the task itself.

    Fields:
        steps: of the search.
        tasks: source tasks made out of it.
        images: that the prior's importance is measured on.
        prior, hidden, iterations, core, reads_weights, hears_prompt: of hypernet.HypernetConfig.
        prompt, pad, image_share, gradient: of recipes.search.SearchConfig.
        deploy_prompt: whether the prompt stays in the image when the network is fine-tuned and used.
    """

    steps: int = 600
    tasks: int = 1
    images: int = 2048
    prior: str = HypernetConfig.prior
    hidden: int = HypernetConfig.hidden
    iterations: int = HypernetConfig.iterations
    core: str = HypernetConfig.core
    reads_weights: bool = HypernetConfig.reads_weights
    hears_prompt: bool = HypernetConfig.hears_prompt
    prompt: str = SearchConfig.prompt
    pad: int = SearchConfig.pad
    image_share: float = SearchConfig.image_share
    gradient: str = SearchConfig.gradient
    deploy_prompt: bool = False

    def __post_init__(self) -> None:
        check_whole(self, steps=0, tasks=1, images=1)
        self.shape(), self.search(2, 0)

    def shape(self) -> HypernetConfig:
        """Of the hypernetwork."""
        return HypernetConfig(hidden=self.hidden, prior=self.prior, iterations=self.iterations, core=self.core, reads_weights=self.reads_weights, hears_prompt=self.hears_prompt)

    def search(self, batch_size: int, seed: int, uniform: bool = False) -> SearchConfig:
        """The search's recipe."""
        return SearchConfig(steps=self.steps, tasks=self.tasks, batch_size=batch_size, seed=seed, prompt=self.prompt, pad=self.pad, image_share=self.image_share,
                            gradient=self.gradient, uniform=uniform)


def _transfer_prompt(context: Context) -> Found:
    prompt, settings = context.entry.prompt(), context.settings
    config = PromptConfig(steps=settings.steps, lr=settings.lr, image_share=settings.image_share, batch_size=context.batch_size, seed=context.seed)
    tune(context.entry.net, context.network(), prompt, context.task, config, context.runtime)
    return _found(context.entry, prompt.cpu(), settings.deploy_prompt)


def _from_scratch(context: Context) -> Found:
    """Stage 1 of arXiv 2407.17412 on the target task: a fresh hypernetwork, with a prior measured on that task."""
    entry, settings, network = context.entry, context.settings, context.network()
    prior = make_prior(settings.prior, network.backbone, context.groups, context.task.size, lambda: task_importance(
        network, context.groups, context.task.train, context.task.classes, context.runtime, settings.images, context.seed))
    torch.manual_seed(context.seed)
    net = Hypernet(settings.shape(), network.backbone, context.groups, prior)
    prompt = search(net, network, context.task, settings.search(context.batch_size, context.seed, context.uniform), context.runtime)
    own = PretrainedHypernet(net.cpu(), entry.backbone(), prompt.cpu(), entry.spec, entry.config, "from scratch")
    return _found(own, own.prompt(), settings.deploy_prompt)


def _found(entry: PretrainedHypernet, prompt: Prompt, deployed: bool) -> Found:
    return Found(entry.scores(prompt), prompt if deployed else None)


METHODS = {
    "transfer_mask": Method(lambda context: context.entry.scores(context.entry.prompt()), coupled=True),
    "transfer_prompt": Method(_transfer_prompt, lambda settings: settings.steps, TransferSettings, coupled=True),
    "pass_from_scratch": Method(_from_scratch, lambda settings: settings.steps + settings.images / 128, ScratchSettings),
}
