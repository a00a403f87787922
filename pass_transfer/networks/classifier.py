"""A network's classifier: its last layer with one output for each class."""

from __future__ import annotations

from typing import cast

from torch import nn

from pass_transfer.errors import BackboneError
from pass_transfer.networks.layers import named_layers


def classifier_name(backbone: nn.Module) -> str:
    """Name of the last linear layer, the classifier. Raises BackboneError if there is none."""
    names = [name for name, _, _ in named_layers(backbone, lambda kind: kind.can_classify)]
    if not names:
        raise BackboneError(
            f"{type(backbone).__name__} has no linear layer that could be its classifier"
        )
    return names[-1]


def classifier_of(backbone: nn.Module) -> nn.Linear:
    """A backbone's classifier. Raises BackboneError if there is none."""
    return cast(nn.Linear, backbone.get_submodule(classifier_name(backbone)))


def set_classifier(backbone: nn.Module, linear: nn.Module) -> None:
    """Replace a backbone's last linear layer."""
    parent, _, leaf = classifier_name(backbone).rpartition(".")
    setattr(backbone.get_submodule(parent), leaf, linear)
