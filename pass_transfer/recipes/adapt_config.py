"""What decides an adapted network, apart from the data; and how long it may be trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pass_transfer.arguments import check_is
from pass_transfer.budgets import Budget, Sparsity
from pass_transfer.errors import UsageError
from pass_transfer.label_mapping import KINDS
from pass_transfer.recipes.options import DEFAULT_MACS, EFFORTS
from pass_transfer.scoring.judge import AUTO, MEASURING
from pass_transfer.scoring.method import CHANNEL, WEIGHT
from pass_transfer.scoring.registry import ChosenMethod, choose_method
from pass_transfer.settings import check_choice, check_positive, check_whole
from pass_transfer.shrinking.distill import TEMPERATURE
from pass_transfer.shrinking.finetune import FinetuneConfig
from pass_transfer.tasks.few_images import check_images_per_class

# Training work an effort may spend on fine-tuning, in MACs of the small network's forward
# pass. ResNet-18 at 64 pixels and half the MACs trains at 430 images/s on two AVX512-BF16
# cores and at 160 to 170 on two without: quick is then 15 to 40 minutes, full five times that.
WORK = {"cpu": {"quick": 2.75e13, "full": 1.3e14}, "gpu": {"quick": 3.4e14, "full": 4e15}}
EPOCHS_LEAST, EPOCHS_MOST = 2, {"quick": 30, "full": 100}
DEFAULT_METHOD, METHOD_AGAIN = "prompt", "selection"  # of a network cut before: no hypernetwork
METHOD_OF_WEIGHTS = "magnitude"
STEPS_LEAST = 400  # a small dataset gets more epochs, up to the most, until it has had so many


@dataclass(frozen=True)
class AdaptConfig:
    """Everything that decides an adapted network, apart from the data.

    Fields:
        method, settings: how units are chosen (scoring/registry.py), and what of the method's
            settings is not the default.
        budget: how large the small network may be; a Sparsity for single weights.
        images_per_class: training images of each class that are used, and a ninth as many
            held-out ones (tasks/few_images.py); None for all.
        effort: "quick" or "full" training; `epochs` overrides it.
        batch_size, lr, weight_decay: of fine-tuning.
        label_mapping: "auto", "linear", "frequency" or "iterative".
        measuring: how the classifier is made that channels are measured with: "fixed",
            "cross-validated", or "auto", by the number of images a class (scoring/judge.py).
        reconstruct: whether kept channels take over what cut ones carried (reconstruct.py).
        dense_epochs: epochs of the dense network on the task before it is scored and cut; 0 cuts
            it as it comes.
        distill, temperature: share of the loss by which the small network learns what the
            dense one says, which is fine-tuned first then; and what softens that (distill.py).
        with_dense: whether the dense network is fine-tuned too, by the same recipe and for as
            long, for comparison.
        unit: what goes: "channel", or "weight" for single weights.
    """

    method: str = DEFAULT_METHOD
    settings: Mapping[str, Any] = field(default_factory=dict)
    budget: Budget | Sparsity = field(default_factory=lambda: Budget(macs=DEFAULT_MACS))
    images_per_class: int | None = None
    effort: str = "quick"
    epochs: int | None = None
    batch_size: int = 128
    lr: float = 0.03
    weight_decay: float = 5e-4
    label_mapping: str = "auto"
    measuring: str = AUTO
    reconstruct: bool = True
    dense_epochs: int = 0
    distill: float = 0.0
    temperature: float = TEMPERATURE
    with_dense: bool = False
    seed: int = 0
    unit: str = CHANNEL

    def __post_init__(self) -> None:
        self.chosen()
        if self.unit == WEIGHT:
            check_is("budget", self.budget, Sparsity, "a Sparsity, such as Sparsity(0.9)")
        else:
            check_is("budget", self.budget, Budget, "a Budget, such as Budget(macs=0.4)")
        for name in ("reconstruct", "with_dense"):
            check_is(name, getattr(self, name), bool, "True or False")
        for name in ("batch_size", "dense_epochs", "seed"):
            check_is(name, getattr(self, name), int, "a whole number")
        check_images_per_class(self.images_per_class)
        check_choice("effort", self.effort, EFFORTS)
        check_choice("label_mapping", self.label_mapping, KINDS)
        check_choice("measuring", self.measuring, MEASURING)
        check_whole(self, epochs=1, batch_size=2, dense_epochs=0, seed=0)
        check_positive(self, "lr", "temperature")
        check_positive(self, "weight_decay", "distill", zero=True)
        if self.distill > 1:
            message = (
                f"distill is {self.distill}; it is a share of the loss, at most 1, such as 0.5"
            )
            raise UsageError(f"{message}; 0 leaves it out", "distill")

    def chosen(self) -> ChosenMethod:
        """The method with its settings. Raises UsageError; see choose_method."""
        if not isinstance(self.settings, Mapping):
            message = f"settings is {self.settings!r}; it is a dict of the method's settings"
            raise UsageError(message, "settings")
        chosen = choose_method(self.method, self.settings, self.unit)
        if chosen.coupling != "grouped":
            raise UsageError(
                "masks with independent coupling cannot be removed, so adapt cannot use them; a "
                "study compares them",
                "coupling",
            )
        return chosen

    def identity_fields(self) -> dict[str, Any]:
        """The fields that decide the small network, as a run keeps them."""
        settings = self.chosen().saved()
        idle = {"with_dense", "method", "settings", "budget"}
        idle |= set() if self.distill else {"distill", "temperature"}
        idle |= set() if self.dense_epochs else {"dense_epochs"}
        idle |= {"images_per_class"} if self.images_per_class is None else set()
        idle |= {"unit"} if self.unit == CHANNEL else set()
        fields = {name: value for name, value in vars(self).items() if name not in idle}
        method = settings.pop("method")
        return {"method": method, "settings": settings, "budget": self.budget.saved()} | fields

    def recipe(self, images: int) -> FinetuneConfig:
        """How the network is fine-tuned on so many images, but for the number of epochs."""
        return FinetuneConfig(
            epochs=self.epochs or 1,
            batch_size=min(self.batch_size, images),
            lr=self.lr,
            weight_decay=self.weight_decay,
            seed=self.seed,
        )


def plan_epochs(config: AdaptConfig, images: int, macs: int, device: str) -> int:
    """Fine-tuning epochs of an effort: fixed work for a kind of device, whatever the data's size.

    It is never timed, so it is always the same.
    """
    if config.epochs is not None:
        return config.epochs
    work = WORK["cpu" if device == "cpu" else "gpu"][config.effort]
    by_work = work / (macs * images)
    by_steps = STEPS_LEAST * config.batch_size / images
    wanted = round(max(by_work, by_steps)) if by_work > 1 else 0
    return max(EPOCHS_LEAST, min(EPOCHS_MOST[config.effort], wanted))
