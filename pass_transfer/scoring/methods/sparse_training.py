"""Sparse training by Torch-Pruning's own pruners.

The dense network is trained under a regulariser that draws channels to zero, and scored by
what is left.

Slim (arXiv 1708.06519), Group-L1 (group lasso on BatchNorm's scales), GrowReg
(arXiv 2012.09243) and DepGraph (arXiv 2301.12900). The scores choose channels; the kept
ones start from the zoo's weights like every other method's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch_pruning
from torch import nn
from torch_pruning.pruner import importance

from pass_transfer.networks import classifier_of
from pass_transfer.networks.network import Network
from pass_transfer.scoring.method import Context, Scores, register
from pass_transfer.scoring.torch_pruning_importance import by_importance
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
    """The same for DepGraph.

    Its regulariser grows to 16 times its strength for the smallest channels.
    """

    reg: float = 5e-3


@dataclass(frozen=True)
class GrowRegSettings(SparseSettings):
    """The same for GrowReg.

    Fields:
        growth: added to the strength every `every` steps, more to the smaller channels.
    """

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
    """Torch-Pruning's pruner of a method.

    It ranks all groups together, and leaves the classifier alone.
    """
    recipe = RECIPES[name]
    settings = settings or recipe.settings()
    growth = {"delta_reg": settings.growth} if isinstance(settings, GrowRegSettings) else {}
    weight = next(backbone.parameters())
    shape = (1, 3, image_size, image_size)
    example = torch.zeros(shape, device=weight.device, dtype=weight.dtype)
    return recipe.pruner(
        backbone,
        example,
        importance=recipe.importance(),
        reg=settings.reg,
        global_pruning=True,
        ignored_layers=[classifier_of(backbone)],
        **recipe.options,
        **growth,
        **more,
    )


class SparseStage(FinetuneStage):
    """Fine-tuning of the dense network with a pruner's regulariser in the gradient."""

    def __init__(self, method: str, context: Context, network: Network, config: FinetuneConfig):
        super().__init__(network, context.task, config, context.runtime, "sparse training")
        backbone, size = self.network.backbone, context.task.size
        self.pruner = make_pruner(method, backbone, size, context.settings)
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


def sparse_scores(method: str, context: Context) -> Scores:
    """Scores of what sparse training leaves of the dense network."""
    settings, task, runtime = context.settings, context.task, context.runtime
    network = runtime.place(context.dense.network()).requires_grad_(True)
    recalibrate(network, task.train, runtime, seed=context.seed)
    fit_head(network, task.train, task.classes, runtime, context.seed)
    images, size = len(task.train), context.batch_size
    warmup = FinetuneConfig.warmup
    loop = LoopConfig.of_steps(settings.steps, images, size, warmup=warmup, seed=context.seed)
    config = FinetuneConfig(
        epochs=loop.epochs,
        batch_size=loop.batch_size,
        lr=settings.lr,
        weight_decay=0.0,
        whole_batch=True,
        seed=context.seed,
    )
    run_stage(SparseStage(method, context, network, config), task.train, loop, runtime)
    found = RECIPES[method].importance()
    return by_importance(found, network.backbone.cpu(), context.groups, task.size)


def _steps(settings: SparseSettings) -> float:
    return 3 * settings.steps  # weights learn, and the regulariser costs as much as a step


for _name, _recipe in RECIPES.items():
    _scores = partial(sparse_scores, _name)
    register(_name, _recipe.settings, steps=_steps, coupled=True)(_scores)
