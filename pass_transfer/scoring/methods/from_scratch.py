"""PASS without transfer: a fresh hypernetwork, searched on the task itself."""

from __future__ import annotations

from dataclasses import dataclass

from pass_transfer.random_streams import seed_layers
from pass_transfer.scoring.hypernet import Hypernet, HypernetConfig
from pass_transfer.scoring.method import Context, Found, register
from pass_transfer.scoring.pretrained import prompt_scores
from pass_transfer.scoring.prior import make_prior
from pass_transfer.scoring.search import SearchConfig, search
from pass_transfer.settings import check_whole

STEP_IMAGES = 128


@dataclass(frozen=True)
class ScratchSettings:
    """A search on the task itself.

    Fields:
        steps: of the search.
        tasks: source tasks made out of it.
        images: that the prior's importance is measured on.
        prior, hidden, iterations, core, reads_weights, uses_prompt: of hypernet.HypernetConfig.
        prompt, pad, image_share, gradient: of recipes.search.SearchConfig.
        deploy_prompt: whether the prompt stays in the image when the network is trained and
            used.
    """

    steps: int = 600
    tasks: int = 1
    images: int = 2048
    prior: str = HypernetConfig.prior
    hidden: int = HypernetConfig.hidden
    iterations: int = HypernetConfig.iterations
    core: str = HypernetConfig.core
    reads_weights: bool = HypernetConfig.reads_weights
    uses_prompt: bool = HypernetConfig.uses_prompt
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
            uses_prompt=self.uses_prompt,
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


def _steps(settings: ScratchSettings) -> float:
    return settings.steps + settings.images / STEP_IMAGES


@register("pass_from_scratch", ScratchSettings, steps=_steps)
def from_scratch(context: Context) -> Found:
    """Stage 1 of arXiv 2407.17412 on the target task, with a prior measured on that task."""
    settings, backbone = context.settings, context.dense.fresh()

    prior = make_prior(
        settings.prior, backbone, context.groups, lambda: context.importance(settings.images)
    )
    seed_layers(context.seed, context.runtime.device)
    net = Hypernet(settings.shape(), backbone, context.groups, prior)
    config = settings.search(context.batch_size, context.seed, context.uniform)
    prompt = search(net, context.task_network, context.task, config, context.runtime, context.run)
    prompt = prompt.cpu()
    return Found(prompt_scores(net.cpu(), prompt), prompt, settings.deploy_prompt)
