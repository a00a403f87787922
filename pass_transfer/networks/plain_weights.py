"""Whether the weights of a network's layers are tensors of their own, as a cut needs them."""

from __future__ import annotations

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from pass_transfer.errors import BackboneError

# What makes a tensor anew in every run leaves its sources beside it, named so.
SOURCES = {
    "_g": "torch.nn.utils.remove_weight_norm",
    "_orig": "torch.nn.utils.prune.remove or torch.nn.utils.remove_spectral_norm",
}


def check_plain_weights(network: nn.Module) -> None:
    """Refuse a network with a weight that is computed from others, or that is not there yet.

    Raises BackboneError, with the layer and what puts its weight in place.
    """
    for name, module in network.named_modules():
        where = f"{name} ({type(module).__name__})".lstrip()
        if parametrize.is_parametrized(module):
            remove = "torch.nn.utils.parametrize.remove_parametrizations"
            raise _computed(network, where, next(iter(module.parametrizations)), remove)
        for tensor, value in module.named_parameters(recurse=False):
            if is_lazy(value):
                raise BackboneError(
                    f"{type(network).__name__} cannot be cut: {tensor} of {where} has no size "
                    "before the network has seen an image; run it on one first"
                )
            for ending, remove in SOURCES.items():
                made = tensor.removesuffix(ending)
                if made != tensor and made in vars(module):
                    raise _computed(network, where, made, remove)


def _computed(network: nn.Module, where: str, tensor: str, remove: str) -> BackboneError:
    return BackboneError(
        f"{type(network).__name__} cannot be cut: {tensor} of {where} is computed from other "
        f"tensors in every run; put it in their place first, by {remove}"
    )
