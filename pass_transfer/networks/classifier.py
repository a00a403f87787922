"""A network's classifier: its last layer with one output for each class."""

from __future__ import annotations

from torch import nn

from pass_transfer.errors import BackboneError
from pass_transfer.networks.layers import kind_of, named_layers


def classifier_name(backbone: nn.Module) -> str:
    """Name of the last linear layer; of the last convolution in a network without linear ones.

    Raises BackboneError if there is neither.
    """
    names = [name for name, _, _ in named_layers(backbone, lambda kind: kind.can_classify)]
    if not names:
        names = [name for name, _, _ in named_layers(backbone, lambda kind: kind.mixes_channels)]
    if not names:
        raise BackboneError(
            f"{type(backbone).__name__} has no linear layer that could be its classifier"
        )
    return names[-1]


def classifier_of(backbone: nn.Module) -> nn.Module:
    """A backbone's classifier. Raises BackboneError if there is none."""
    return backbone.get_submodule(classifier_name(backbone))


def classifier_sizes(backbone: nn.Module) -> tuple[int, int]:
    """Features that a backbone's classifier takes in, and its classes."""
    classifier = classifier_of(backbone)
    kind = kind_of(classifier)
    return kind.input_channels(classifier), kind.output_channels(classifier)


def set_classifier(backbone: nn.Module, classifier: nn.Module) -> None:
    """Replace a backbone's classifier.

    Args:
        classifier: a linear layer, or one of the kind that the network has.
    """
    name = classifier_name(backbone)
    parent, _, leaf = name.rpartition(".")
    old = backbone.get_submodule(name)
    setattr(backbone.get_submodule(parent), leaf, kind_of(old).as_classifier(classifier))
