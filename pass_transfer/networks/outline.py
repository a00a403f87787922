"""Networks without values: what was read is compared with their shapes before any memory is taken.

They live on torch's "meta" device, where a tensor has a shape and nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import nn

from pass_transfer.errors import BackboneError
from pass_transfer.networks.spec import BackboneSpec

Module = TypeVar("Module", bound=nn.Module)
ODD_SIZE = (RuntimeError, AssertionError, ValueError)  # that networks raise for images of a size


def outline(build: Callable[[], Module]) -> Module:
    """What `build` makes, without values. Nothing is drawn, whatever it would draw."""
    try:
        with torch.device("meta"):
            return build()
    except NotImplementedError:  # it computes its own sizes with tensors, as RegNet does
        with torch.random.fork_rng(devices=[]):
            return build().to("meta")


def check_tensors(
    own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], where: object
) -> None:
    """Refuse tensors that are not just those of a module, by name, shape, kind and finiteness.

    Args:
        own: the module's, perhaps without values.
        given: what was read.
        where: the file, for the message.

    Raises:
        BackboneError: it names the tensor.
    """
    odd = sorted(set(own) ^ set(given))
    if odd:
        what = "missing" if odd[0] in own else "unknown"
        raise BackboneError(f"{where}: the tensor {odd[0]} is {what}")
    for name, tensor in given.items():
        expected = own[name]
        if tensor.shape != expected.shape:
            found = f"{name} has shape {tuple(tensor.shape)}, not {tuple(expected.shape)}"
            raise BackboneError(f"{where}: {found}")
        if tensor.is_floating_point() != expected.is_floating_point():
            raise BackboneError(f"{where}: {name} is {tensor.dtype}, not {expected.dtype}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BackboneError(f"{where}: {name} holds NaN or infinite values")


def load_tensors(
    module: nn.Module, tensors: Mapping[str, torch.Tensor], *, strict: bool = True
) -> None:
    """Give a module these values, by the names of its own tensors: of all, if it is strict.

    A file says nothing of versions of layers: the tensors are as the module has them now.
    """
    state = OrderedDict(tensors)
    vars(state)["_metadata"] = vars(module.state_dict())["_metadata"]
    module.load_state_dict(state, strict=strict)


def check_images(network: nn.Module, spec: BackboneSpec) -> None:
    """Refuse a network without values that does not take its images to its classes.

    A network with an operator that knows no meta device is let pass.

    Raises BackboneError.
    """
    size = spec.image_size
    said = f"this {spec.architecture} does not take images of {size} pixels"
    try:
        with torch.no_grad(), torch.device("meta"):
            made = network.eval()(torch.empty(1, 3, size, size))
    except NotImplementedError:
        return
    except ODD_SIZE as error:  # torch has no kind of its own for shapes that do not fit
        raise BackboneError(f"{said}: {str(error).splitlines()[0]}") from error
    given = tuple(made.shape) if isinstance(made, torch.Tensor) else f"a {type(made).__name__}"
    if given != (1, spec.classes):
        raise BackboneError(f"{said} to {spec.classes} classes, but to {given}")
