"""PASS by transfer of the masks: those that the source task's prompt gives (arXiv 2407.17412)."""

from __future__ import annotations

from dataclasses import dataclass

from pass_transfer.scoring.method import Context, Found, register
from pass_transfer.scoring.task_prior import with_task_prior


@dataclass(frozen=True)
class MaskSettings:
    """The source task's masks as they are.

    Fields:
        deploy_prompt: whether the source task's prompt stays in the image when the network is
            trained and used.
    """

    deploy_prompt: bool = True


@register("mask", MaskSettings, coupled=True, needs_hypernet=True)
def source_scores(context: Context) -> Found:
    """Scores of the source task's prompt; on weights of one's own, with the task's prior."""
    hypernet = context.entry
    if hypernet.own_weights:
        hypernet = with_task_prior(hypernet, context)
    prompt = hypernet.prompt()
    return Found(hypernet.scores(prompt), prompt, context.settings.deploy_prompt)
