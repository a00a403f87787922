"""PASS by transfer: a prompt is tuned on the task, the hypernetwork is frozen.

arXiv 2407.17412, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

from pass_transfer.scoring.method import Context, Found, register
from pass_transfer.scoring.prompt_tuning import PromptConfig, tune
from pass_transfer.scoring.task_prior import IMAGES, with_task_prior
from pass_transfer.settings import check_choice, check_densities, check_positive, check_whole

PRIORS = ("task", "source")
STEP_IMAGES = 128


@dataclass(frozen=True)
class PromptSettings:
    """A prompt tuned on the task.

    Fields:
        steps, lr, image_share, low, high: of PromptConfig.
        prior: what the frozen hypernetwork corrects: scores measured on the "task"'s training
            images, or the "source"'s, which are the entry's own. With weights of one's own
            they are always the task's.
        deploy_prompt: whether the prompt stays in the image when the network is trained and
            used.
    """

    steps: int = PromptConfig.steps
    lr: float = PromptConfig.lr
    image_share: float = PromptConfig.image_share
    low: float = PromptConfig.low
    high: float = PromptConfig.high
    prior: str = "task"
    deploy_prompt: bool = True

    def __post_init__(self) -> None:
        check_whole(self, steps=0)
        check_positive(self, "lr")
        check_choice("prior", self.prior, PRIORS)
        check_positive(self, "image_share", zero=True, most=1)
        check_densities(self.low, self.high)

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


def _steps(settings: PromptSettings) -> float:
    return settings.steps + (IMAGES / STEP_IMAGES if settings.prior == "task" else 0)


@register("prompt", PromptSettings, steps=_steps, coupled=True, needs_hypernet=True)
def prompt_scores(context: Context) -> Found:
    """Scores of the prompt that is tuned on the task."""
    hypernet, settings = context.entry, context.settings
    if settings.prior == "task" or hypernet.own_weights:
        hypernet = with_task_prior(hypernet, context)
    prompt = hypernet.prompt()
    tune(hypernet, prompt, settings.tuning(context.batch_size, context.seed), context)
    prompt = prompt.cpu()
    return Found(hypernet.scores(prompt), prompt, settings.deploy_prompt)
