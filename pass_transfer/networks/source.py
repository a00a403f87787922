"""Where networks come from: what every library of them can be asked for."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pass_transfer.networks.spec import BackboneSpec

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class NetworkSource:
    """What is known of networks of one library.

    Fields:
        build: a spec's network, with random weights.
        inputs: an architecture, and a name of its weights or None for the default ones, to what
            these take in: fields of BackboneSpec.
        pretrained: a spec, and such a name or None, to the tensors of these weights.
        adjusted: a checkpoint's tensors by the network's names, and the network, to the same
            tensors for its image size.
    """

    build: Callable[[BackboneSpec], nn.Module]
    inputs: Callable[[str, str | None], dict[str, Any]]
    pretrained: Callable[[BackboneSpec, str | None], State]
    adjusted: Callable[[dict[str, torch.Tensor], nn.Module], dict[str, torch.Tensor]]


def meant(name: str, known: Iterable[str], called: Mapping[str, str] | None = None) -> str:
    """What a name may have been meant for, as a message says it; nothing where none is near.

    Args:
        called: what is said of a known name in place of itself.
    """
    found = difflib.get_close_matches(name, list(known), 3)
    said = " or ".join(dict.fromkeys((called or {}).get(one, one) for one in found))
    return f" (did you mean {said}?)" if found else ""
