"""Sparse training by Torch-Pruning's own pruners: the dense network is trained under a regulariser that draws channels to zero, and scored by what is left.

Slim (arXiv 1708.06519), Group-L1 (group lasso on BatchNorm's scales), GrowReg
(arXiv 2012.09243) and DepGraph (arXiv 2301.12900). The scores choose channels; the kept
ones start from the zoo's weights like every other method's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import nn
from torch_pruning.pruner import importance

from pass_transfer.networks import classifier_name
from pass_transfer.scoring.magnitude import by_importance
from pass_transfer.scoring.method import Context, Method, Scores
from pass_transfer.settings import check_positive, check_whole
from pass_transfer.shrinking.classifier import fit_head
from pass_transfer.shrinking.finetune import FinetuneConfig, FinetuneStage
from pass_transfer.shrinking.recalibrate import recalibrate
from pass_transfer.training import LoopConfig, run_stage


@dataclass(frozen=True)
class SparseSettings:
    """steps of sparse training, its learning rate, and the regulariser's strength.

    The strengths fit a few hundred steps: what is published belongs to a hundred epochs,
    and would move a channel's scale by a thousandth here.
    """

    steps: int = 300
    lr: float = 0.01
    reg: float = 1e-2

    def __post_init__(self) -> None:
        check_whole(self, steps=1)
        check_positive(self, "lr")
        check_positive(self, "reg", zero=True)


@dataclass(frozen=True)
class DepGraphSettings(SparseSettings):
    """The same for DepGraph, whose regulariser grows to 16 times its strength for the smallest channels."""

    reg: float = 5e-3


@dataclass(frozen=True)
class GrowRegSettings(SparseSettings):
    """The same for GrowReg. growth is added to the strength every `every` steps, more to the smaller channels."""

    reg: float = 1e-4
    growth: float = 1e-3
    every: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, every=1)
        check_positive(self, "growth", zero=True)


@dataclass(frozen=True)
class _Recipe:
    """A pruner of Torch-Pruning, its importance, its options, and the settings it is made with."""

    pruner: Callable[..., Any]
    importance: Callable[[], importance.Importance]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    settings: type = SparseSettings


RECIPES = {
    "slim": _Recipe(torch_pruning.pruner.BNScalePruner, importance.BNScaleImportance),
    "group_l1_sparse": _Recipe(
        torch_pruning.pruner.BNScalePruner, importance.BNScaleImportance, {"group_lasso": True}
    ),
    "growreg": _Recipe(
        torch_pruning.pruner.GrowingRegPruner,
        lambda: importance.GroupMagnitudeImportance(p=2),
        settings=GrowRegSettings,
    ),
    "depgraph": _Recipe(
        torch_pruning.pruner.GroupNormPruner,
        lambda: importance.GroupMagnitudeImportance(p=2, normalizer="max"),
        settings=DepGraphSettings,
    ),
}


def make_pruner(
    name: str,
    backbone: nn.Module,
    image_size: int,
    settings: SparseSettings | None = None,
    **more: Any,
) -> Any:
    """Torch-Pruning's pruner of a method, ranking all groups together and leaving the classifier alone."""
    recipe = RECIPES[name]
    settings = settings or recipe.settings()
    growth = {"delta_reg": settings.growth} if isinstance(settings, GrowRegSettings) else {}
    weight = next(backbone.parameters())
    example = torch.zeros(1, 3, image_size, image_size, device=weight.device, dtype=weight.dtype)
    return recipe.pruner(
        backbone,
        example,
        importance=recipe.importance(),
        reg=settings.reg,
        global_pruning=True,
        ignored_layers=[backbone.get_submodule(classifier_name(backbone))],
        **recipe.options,
        **growth,
        **more,
    )


class SparseStage(FinetuneStage):
    """Fine-tuning of the dense network with a pruner's regulariser in the gradient."""

    def __init__(self, method: str, context: Context, network, config: FinetuneConfig):
        super().__init__(network, context.task, config, context.runtime, "sparse training")
        self.pruner = make_pruner(
            method, self.network.backbone, context.task.size, context.settings
        )
        self.every, self.count = getattr(context.settings, "every", None), 0

    def regularise(self) -> None:
        """Add the regulariser's gradient; where it grows, let it."""
        self.pruner.regularize(self.network.backbone)
        self.count += 1
        if self.every and self.count % self.every == 0:
            self.pruner.update_reg()

    def evaluate(self) -> dict[str, float]:
        """Nothing: the network is scored as it ends."""
        return {}


def _sparse(method: str, context: Context) -> Scores:
    settings, task, runtime = context.settings, context.task, context.runtime
    network = runtime.place(context.network()).requires_grad_(True)
    recalibrate(network, task.train, runtime, seed=context.seed)
    fit_head(network, task.train, task.classes, runtime, context.seed)
    loop = LoopConfig.of_steps(
        settings.steps,
        len(task.train),
        context.batch_size,
        warmup=FinetuneConfig.warmup,
        seed=context.seed,
    )
    config = FinetuneConfig(
        epochs=loop.epochs,
        batch_size=loop.batch_size,
        lr=settings.lr,
        weight_decay=0.0,
        whole_batch=True,
        seed=context.seed,
    )
    run_stage(SparseStage(method, context, network, config), task.train, loop, runtime)
    return by_importance(
        RECIPES[method].importance(), network.backbone.cpu(), context.entry.groups, task.size
    )


METHODS = {
    name: Method(
        lambda context, name=name: _sparse(name, context),
        lambda settings: 3 * settings.steps,
        recipe.settings,
        coupled=True,
    )
    for name, recipe in RECIPES.items()
}
