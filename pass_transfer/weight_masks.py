"""Masks of single weights: an immutable value, applied, held, saved as bits."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from pass_transfer.arguments import check_is, check_path
from pass_transfer.errors import MaskError
from pass_transfer.files import read_tensors, write_tensors
from pass_transfer.surroundings import as_guest, in_own_modes

BITS, SHAPE = ".bits", ".shape"


class WeightMasks(Mapping[str, torch.Tensor]):
    """Which single weights are kept: a weight's name in the network to a bool tensor of its shape.

    The tensors are copies; changing one changes no mask. Masks are equal when they keep the
    same weights. A layer may lose all of its weights: `empty` names it.
    """

    @in_own_modes
    def __init__(self, masks: Mapping[str, torch.Tensor]):
        check_is("masks", masks, Mapping, "a dict of bool tensors by weight")
        for name, mask in masks.items():
            check_is(f"the mask of {name}", mask, torch.Tensor, "a bool tensor of its shape")
            if mask.dtype != torch.bool or mask.ndim < 2:
                raise MaskError(
                    f"the mask of {name} is {mask.dtype} with shape {tuple(mask.shape)}; "
                    "it must be bool, of the weight's shape (O, I, ...)"
                )
        self._masks = {name: mask.detach().cpu().clone() for name, mask in masks.items()}

    def __getitem__(self, weight: str) -> torch.Tensor:
        return self._masks[weight].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WeightMasks) or set(self) != set(other):
            return False
        return all(torch.equal(mask, other._masks[name]) for name, mask in self._masks.items())

    def __hash__(self) -> int:
        return hash(frozenset(self.kept.items()))

    def __repr__(self) -> str:
        return f"WeightMasks(sparsity={self.sparsity:.3f}, weights={len(self)})"

    @property
    def kept(self) -> dict[str, int]:
        """Single weights kept in each."""
        return {name: int(mask.sum()) for name, mask in self._masks.items()}

    @property
    def sizes(self) -> dict[str, int]:
        """Single weights of each, kept or not."""
        return {name: mask.numel() for name, mask in self._masks.items()}

    @property
    def dropped(self) -> int:
        """Single weights that go, over all."""
        return sum(self.sizes.values()) - sum(self.kept.values())

    @property
    def sparsity(self) -> float:
        """Share of all single weights that goes."""
        return self.dropped / max(1, sum(self.sizes.values()))

    @property
    def empty(self) -> list[str]:
        """Those of which nothing is kept."""
        return [name for name, kept in self.kept.items() if not kept]

    @as_guest
    def apply(self, backbone: nn.Module) -> nn.Module:
        """A copy of a backbone with exact zeros for the weights that go. Raises MaskError."""
        small = copy.deepcopy(backbone)
        self.zero_(small)
        return small

    @torch.no_grad()
    def zero_(self, backbone: nn.Module) -> None:
        """Set the weights that go to zero, in place. Raises MaskError for another network's."""
        for name, weight in self._parameters(backbone).items():
            weight.masked_fill_(~self._masks[name].to(weight.device), 0.0)

    def hold(self, backbone: nn.Module) -> list[RemovableHandle]:
        """Zeros stay exact zeros in training, until the handles are removed.

        Their gradients are zero before an optimizer sees them. So are then its averages of
        them and their weight decay, and a weight of zero stays where it is.

        Raises:
            MaskError: another network's masks, or weights that go and are not zero.
        """
        self.check_zeros(backbone)
        handles = []
        for name, weight in self._parameters(backbone).items():
            dropped = ~self._masks[name].to(weight.device)
            handles.append(weight.register_hook(_Held(dropped)))
        return handles

    def check_zeros(self, backbone: nn.Module) -> None:
        """Raise MaskError for another network, or one where a weight that goes is not zero."""
        for name, weight in self._parameters(backbone).items():
            if bool(weight.detach().masked_select(~self._masks[name].to(weight.device)).any()):
                message = f"{name} holds weights that go and are not zero; call zero_ first"
                raise MaskError(message)

    def _parameters(self, backbone: nn.Module) -> dict[str, nn.Parameter]:
        found = dict(backbone.named_parameters())
        for name, mask in self._masks.items():
            if name not in found or found[name].shape != mask.shape:
                raise MaskError(f"these masks belong to another network: {name} does not fit")
        return {name: found[name] for name in self._masks}

    def save(self, path: str | Path) -> None:
        """Write a safetensors file: of each weight its shape, and a bit for each single one."""
        check_path("path", path)
        tensors = {}
        for name, mask in self._masks.items():
            tensors[name + BITS] = to_bits(mask)
            tensors[name + SHAPE] = torch.tensor(mask.shape)
        write_tensors(path, tensors)

    @classmethod
    def load(
        cls, path: str | Path, weights: Mapping[str, torch.Tensor] | None = None
    ) -> WeightMasks:
        """Read what save wrote, in the weights' order.

        Args:
            weights: those that the masks are for (single_weights).

        Raises MaskError where they do not fit, or for another file.
        """
        check_path("path", path)
        tensors = read_tensors(path)
        names = [name.removesuffix(SHAPE) for name in tensors if name.endswith(SHAPE)]
        if not names or {*tensors} != {n + end for n in names for end in (BITS, SHAPE)}:
            raise MaskError(f"{path} does not hold masks of single weights")
        shapes = {name: torch.Size(tensors[name + SHAPE].tolist()) for name in names}
        if weights is not None:
            if shapes != {name: weight.shape for name, weight in weights.items()}:
                raise MaskError(f"{path} holds masks of another network")
            names = list(weights)
        return cls({name: from_bits(tensors[name + BITS], shapes[name]) for name in names})


class _Held:
    """A gradient with zeros where weights go."""

    def __init__(self, dropped: torch.Tensor):
        self.dropped = dropped

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
        self.dropped = self.dropped.to(gradient.device)
        return gradient.masked_fill(self.dropped, 0.0)


def to_bits(mask: torch.Tensor) -> torch.Tensor:
    """A bool mask as uint8, eight of its elements in one, the first one highest."""
    return torch.from_numpy(np.packbits(mask.cpu().contiguous().numpy().reshape(-1)))


def from_bits(bits: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The bool mask that to_bits was given. Raises MaskError for bits of another number."""
    count = shape.numel()
    if bits.dtype != torch.uint8 or bits.shape != (-(-count // 8),):
        raise MaskError(f"{tuple(bits.shape)} bytes are no mask of shape {tuple(shape)}")
    flat = np.unpackbits(bits.numpy(), count=count).astype(bool)
    return torch.from_numpy(flat).view(shape)
