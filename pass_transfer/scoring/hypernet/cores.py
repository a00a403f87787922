"""What may stand in the LSTM's place, to see what the recurrence is worth.

These are the ablations of arXiv 2407.17412.
"""

from __future__ import annotations

from torch import Tensor, nn

SPAN = 3  # layers that a convolution sees at once


def make_core(kind: str, inputs: int, hidden: int) -> nn.Module:
    """A module from (steps, inputs) to (steps, hidden), of about as many parameters as the LSTM.

    Args:
        kind: "conv", two convolutions along the layers; "mlp", the same two layers for every
            step by itself.
    """
    if kind == "conv":
        return Along(
            nn.Sequential(
                nn.Conv1d(inputs, hidden, SPAN, padding=SPAN // 2),
                nn.Tanh(),
                nn.Conv1d(hidden, hidden, SPAN, padding=SPAN // 2),
                nn.Tanh(),
            )
        )
    return nn.Sequential(
        nn.Linear(inputs, 2 * hidden), nn.Tanh(), nn.Linear(2 * hidden, hidden), nn.Tanh()
    )


class Along(nn.Module):
    """Channels-first layers on (steps, channels)."""

    def __init__(self, layers: nn.Module):
        super().__init__()
        self.layers = layers

    def forward(self, rows: Tensor) -> Tensor:
        """(steps, inputs) to (steps, hidden)."""
        return self.layers(rows.T).T
