"""Knowledge distillation: a network learns what a larger one says of an image, beside its label.

Hinton et al., arXiv 1503.02531: the cross-entropy, and the divergence of the two networks'
predictions softened by a temperature, times its square so that both gradients stay of one size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from pass_transfer.networks.network import Network
from pass_transfer.training import Runtime

TEMPERATURE = 4.0


def softened_divergence(
    teacher: torch.Tensor, student: torch.Tensor, temperature: float
) -> torch.Tensor:
    """T^2 * KL(teacher || student) of logits (B, classes) divided by T, mean over the batch."""
    expected, predicted = (
        nn.functional.log_softmax(logits.float() / temperature, dim=1)
        for logits in (teacher, student)
    )
    return temperature**2 * nn.functional.kl_div(
        predicted, expected, reduction="batchmean", log_target=True
    )


@dataclass(frozen=True)
class Teacher:
    """A trained network whose predictions are learned, too.

    Fields:
        network: on the runtime's device, frozen, in eval mode.
        weight: share of the divergence in the loss, above 0 and at most 1; the labels' loss has
            the rest.
        temperature: what logits are divided by.
    """

    network: Network
    weight: float
    temperature: float = TEMPERATURE

    @classmethod
    def of(cls, network: Network, weight: float, temperature: float, runtime: Runtime) -> Teacher:
        """A network made a teacher: placed, frozen, in eval mode."""
        return cls(runtime.place(network).requires_grad_(False).eval(), weight, temperature)

    def loss(
        self, images: torch.Tensor, logits: torch.Tensor, labelled: torch.Tensor, runtime: Runtime
    ) -> torch.Tensor:
        """The student's loss.

        Args:
            images: (B, 3, S, S) in [0, 1], as the student saw them.
            logits: the student's, (B, classes) float32.
            labelled: its loss by the labels.
        """
        with torch.no_grad(), runtime.autocast():
            said = self.network(images)
        return (1 - self.weight) * labelled + self.weight * softened_divergence(
            said, logits, self.temperature
        )
