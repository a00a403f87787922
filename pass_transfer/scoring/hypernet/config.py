"""The shape of a hypernetwork."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pass_transfer.errors import UsageError
from pass_transfer.settings import (
    ANYTHING,
    check_choice,
    check_fields,
    check_positive,
    check_truth,
    check_whole,
    shown,
    whole,
)

PRIORS = ("taylor+l1", "l1", "none")
CORES = ("lstm", "conv", "mlp")
WIDEST = 1 << 16  # of any layer
MOST_ITERATIONS = 100
FARTHEST = 1e6  # of a correction; float32 holds what is scaled by it
RENAMED = {"hears_prompt": "uses_prompt"}  # fields that version 0.1.0 called otherwise


@dataclass(frozen=True)
class HypernetConfig:
    """What decides the shape and the scale of a hypernetwork's scores.

    Fields:
        hidden: width of the prompt's codes and of the LSTM (arXiv 2407.17412 gives
            0.31 M parameters for ResNet-18, which is 64; a prompt can say more with 128).
        pooled: length to which each layer's averaged weights are pooled.
        encoder: channels of the first two layers of the prompt encoder.
        prior: the ranking inside each group that the hypernetwork corrects: "l1", the
            magnitude; "taylor+l1", magnitude and importance to the source tasks in equal
            shares; "none" starts from nothing.
        correction: bound of a channel's correction before the group's mean is taken out
            of it, in standard deviations of the prior. Unbounded scores lose the prior
            within a few steps; corrections with another mean would move width between
            layers, which costs accuracy after fine-tuning.
        iterations: passes of the recurrence; each feeds the average mask so far.
        reference_density: share of all channels kept in the masks that are fed.
        core: what joins the layers: "lstm", or, to see what the recurrence is worth, "conv",
            convolutions along the layers, or "mlp", every layer by itself.
        reads_weights, uses_prompt: whether it does, to see what that is worth.
    """

    hidden: int = 128
    pooled: int = 64
    encoder: tuple[int, int] = (16, 64)
    prior: str = "taylor+l1"
    correction: float = 2.0
    iterations: int = 2
    reference_density: float = 0.7
    core: str = "lstm"
    reads_weights: bool = True
    uses_prompt: bool = True

    def __post_init__(self) -> None:
        check_choice("prior", self.prior, PRIORS)
        check_choice("core", self.core, CORES)
        check_whole(self, hidden=1, pooled=1, most=WIDEST)
        check_whole(self, iterations=1, most=MOST_ITERATIONS)
        check_positive(self, "correction", most=FARTHEST)
        check_positive(self, "reference_density", most=1)
        check_truth(self, "reads_weights", "uses_prompt")
        encoder = self.encoder if isinstance(self.encoder, (tuple, list)) else ()
        if len(encoder) != 2 or not all(map(whole(1, WIDEST).fits, encoder)):
            wanted = f"it is two whole numbers from 1 to {WIDEST}"
            raise UsageError(f"encoder is {shown(self.encoder)}; {wanted}", "encoder")
        object.__setattr__(self, "encoder", tuple(encoder))

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any]) -> HypernetConfig:
        """The shape that was written as JSON, by this version or an earlier one.

        Raises UsageError for an unknown field, or a shape that makes no sense.
        """
        known = {field.name: ANYTHING for field in dataclasses.fields(cls)}
        check_fields(saved, {}, known | dict.fromkeys(RENAMED, ANYTHING), closed=True)
        return cls(**{RENAMED.get(name, name): value for name, value in saved.items()})
