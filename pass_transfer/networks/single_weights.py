"""A network's single weights that may go: those of its convolutions and linear layers."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import torch
from torch import nn

from pass_transfer.errors import UsageError
from pass_transfer.networks.classifier import classifier_name
from pass_transfer.networks.layers import named_layers


def single_weights(backbone: nn.Module, keep_layers: Sequence[str] = ()) -> dict[str, torch.Tensor]:
    """Weights by their names in the network, in its order; the classifier's stay and are not there.

    Args:
        keep_layers: layers to leave alone, by name or pattern ("layer1.*").

    Returns:
        (O, I, ...) each, detached; they are the network's own.

    Raises:
        UsageError: a pattern that no layer has.
    """
    classifier, found = classifier_name(backbone), {}
    for name, module, _ in named_layers(backbone, lambda kind: kind.makes_channels):
        weight = getattr(module, "weight", None)
        if name != classifier and isinstance(weight, torch.Tensor) and weight.ndim > 1:
            found[name] = weight.detach()
    for pattern in keep_layers:
        matching = fnmatch.filter(found, pattern)
        if not matching:
            message = f"keep_layers: no layer whose weights could go is called {pattern}"
            raise UsageError(message, "keep_layers")
    left = [n for n in found if not any(fnmatch.fnmatch(n, p) for p in keep_layers)]
    return {f"{name}.weight": found[name] for name in left}
