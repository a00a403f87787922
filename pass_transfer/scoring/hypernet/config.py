"""The shape of a hypernetwork."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pass_transfer.errors import UsageError

PRIORS = ("taylor+l1", "l1", "none")
CORES = ("lstm", "conv", "mlp")
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
        if self.prior not in PRIORS:
            raise UsageError(f"unknown prior {self.prior!r}; choose one of {', '.join(PRIORS)}")
        if self.core not in CORES:
            raise UsageError(f"unknown core {self.core!r}; choose one of {', '.join(CORES)}")
        if min(self.hidden, self.pooled, self.iterations, *self.encoder) < 1:
            raise UsageError("hidden, pooled, encoder and iterations are at least 1")
        if not 0 < self.reference_density <= 1:
            raise UsageError(
                f"reference_density is {self.reference_density}; it is above 0 and at most 1"
            )
        object.__setattr__(self, "encoder", tuple(self.encoder))

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any]) -> HypernetConfig:
        """The shape that was written as JSON, by this version or an earlier one.

        Raises:
            TypeError: an unknown field.
            UsageError: a shape that makes no sense.
        """
        return cls(**{RENAMED.get(name, name): value for name, value in saved.items()})
