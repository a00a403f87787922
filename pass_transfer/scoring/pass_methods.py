"""PASS: masks from the source as they are, from a prompt tuned on the task, and from a hypernetwork searched on the task itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pass_transfer.errors import UsageError
from pass_transfer.prompts import Prompt
from pass_transfer.scoring.hypernet import Hypernet, HypernetConfig
from pass_transfer.scoring.method import Context, Found, Method
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.scoring.prior import make_prior
from pass_transfer.scoring.prompt_tuning import PromptConfig, tune
from pass_transfer.scoring.search import SearchConfig, search
from pass_transfer.scoring.task_importance import task_importance
from pass_transfer.scoring.task_prior import IMAGES, PRIOR_OF, task_prior
from pass_transfer.settings import check_positive, check_whole


@dataclass(frozen=True)
class TransferSettings:
    """A prompt tuned on the task.

    Fields:
        steps, lr, image_share, low, high: of recipes.tune_prompt.PromptConfig.
        prior: what the frozen hypernetwork corrects: "source" for the entry's own scores, "task" for the same kind of scores
            measured on the task's training images.
        deploy_prompt: whether the prompt stays in the image when the network is fine-tuned and used.
    """

    steps: int = PromptConfig.steps
    lr: float = PromptConfig.lr
    image_share: float = PromptConfig.image_share
    low: float = PromptConfig.low
    high: float = PromptConfig.high
    prior: str = "source"
    deploy_prompt: bool = False

    def __post_init__(self) -> None:
        check_whole(self, steps=0)
        check_positive(self, "lr")
        if not 0 < self.low <= self.high <= 1:
            raise UsageError(
                f"low and high are {self.low} and {self.high}; they are densities, low the smaller one"
            )
        if self.prior not in PRIOR_OF:
            raise UsageError(f"prior is {self.prior!r}; it can be {' or '.join(PRIOR_OF)}")

    def tuning(self, batch_size: int, seed: int) -> PromptConfig:
        """The recipe."""
        return PromptConfig(
            steps=self.steps,
            lr=self.lr,
            image_share=self.image_share,
            batch_size=batch_size,
            low=self.low,
            high=self.high,
            seed=seed,
        )


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
    hears_prompt: bool = HypernetConfig.uses_prompt
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
        return HypernetConfig(
            hidden=self.hidden,
            prior=self.prior,
            iterations=self.iterations,
            core=self.core,
            reads_weights=self.reads_weights,
            uses_prompt=self.hears_prompt,
        )

    def search(self, batch_size: int, seed: int, uniform: bool = False) -> SearchConfig:
        """The search's recipe."""
        return SearchConfig(
            steps=self.steps,
            tasks=self.tasks,
            batch_size=batch_size,
            seed=seed,
            prompt=self.prompt,
            pad=self.pad,
            image_share=self.image_share,
            gradient=self.gradient,
            uniform=uniform,
        )


def _transfer_prompt(context: Context) -> Found:
    entry, settings = context.entry, context.settings
    if settings.prior == "task":
        entry = entry.with_prior(task_prior(entry, context.task, context.runtime, context.seed))
    prompt = entry.prompt()
    tune(
        entry.net,
        context.network(),
        prompt,
        context.task,
        settings.tuning(context.batch_size, context.seed),
        context.runtime,
    )
    return _found(entry, prompt.cpu(), settings.deploy_prompt)


def _from_scratch(context: Context) -> Found:
    """Stage 1 of arXiv 2407.17412 on the target task: a fresh hypernetwork, with a prior measured on that task."""
    entry, settings, network = context.entry, context.settings, context.network()
    prior = make_prior(
        settings.prior,
        network.backbone,
        context.groups,
        context.task.size,
        lambda: task_importance(
            network,
            context.groups,
            context.task.train,
            context.task.classes,
            context.runtime,
            settings.images,
            context.seed,
        ),
    )
    torch.manual_seed(context.seed)
    net = Hypernet(settings.shape(), network.backbone, context.groups, prior)
    prompt = search(
        net,
        network,
        context.task,
        settings.search(context.batch_size, context.seed, context.uniform),
        context.runtime,
    )
    own = PretrainedHypernet(
        net.cpu(), entry.backbone(), prompt.cpu(), entry.spec, entry.config, "from scratch"
    )
    return _found(own, own.prompt(), settings.deploy_prompt)


def _found(entry: PretrainedHypernet, prompt: Prompt, deployed: bool) -> Found:
    return Found(entry.scores(prompt), prompt if deployed else None)


METHODS = {
    "transfer_mask": Method(
        lambda context: context.entry.scores(context.entry.prompt()), coupled=True
    ),
    "transfer_prompt": Method(
        _transfer_prompt,
        lambda settings: settings.steps + (IMAGES / 128 if settings.prior == "task" else 0),
        TransferSettings,
        coupled=True,
    ),
    "pass_from_scratch": Method(
        _from_scratch, lambda settings: settings.steps + settings.images / 128, ScratchSettings
    ),
}
