"""Channel masks: an immutable value, saved, compared, summarised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

from pass_transfer.arguments import check_is, check_path
from pass_transfer.errors import MaskError
from pass_transfer.files import read_tensors, write_tensors
from pass_transfer.networks import ChannelGroups
from pass_transfer.surroundings import as_guest, in_own_modes


class ChannelMasks(Mapping[str, torch.Tensor]):
    """Which units of each channel group are kept: group name to a bool tensor (width,).

    The tensors are copies; changing one changes no mask. Masks are equal when they keep
    the same units, in whatever order their groups are.
    """

    @in_own_modes
    def __init__(self, masks: Mapping[str, torch.Tensor]):
        check_is("masks", masks, Mapping, "a dict of bool tensors by channel group")
        for name, mask in masks.items():
            check_is(f"the mask of {name}", mask, torch.Tensor, "a bool tensor (width,)")
            if mask.dtype != torch.bool or mask.ndim != 1:
                raise MaskError(
                    f"the mask of {name} is {mask.dtype} with shape {tuple(mask.shape)}; "
                    "it must be bool (width,)"
                )
            if not mask.any():
                raise MaskError(f"the mask of {name} keeps no channel; at least one must stay")
        self._masks = {name: mask.detach().cpu().clone() for name, mask in masks.items()}

    def __getitem__(self, group: str) -> torch.Tensor:
        return self._masks[group].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChannelMasks) and self.issubset(other) and other.issubset(self)

    def __hash__(self) -> int:
        return hash(frozenset((name, tuple(mask.tolist())) for name, mask in self._masks.items()))

    def __repr__(self) -> str:
        return f"ChannelMasks(density={self.density:.3f}, groups={len(self)})"

    @property
    def kept(self) -> dict[str, int]:
        """Units kept in each group."""
        return {name: int(mask.sum()) for name, mask in self._masks.items()}

    @property
    def widths(self) -> dict[str, int]:
        """Units of each group, kept or not."""
        return {name: len(mask) for name, mask in self._masks.items()}

    @property
    def density(self) -> float:
        """Share of all units that is kept."""
        return sum(self.kept.values()) / sum(self.widths.values())

    def difference(self, other: ChannelMasks) -> float:
        """Share of units that one keeps and the other does not.

        Raises MaskError for masks of another network.
        """
        check_is("other", other, ChannelMasks, "the ChannelMasks to compare with")
        if self.widths != other.widths:
            raise MaskError("these masks belong to different networks and cannot be compared")
        differing = [int((self._masks[name] ^ other._masks[name]).sum()) for name in self]
        return sum(differing) / sum(self.widths.values())

    def issubset(self, other: ChannelMasks) -> bool:
        """Whether every unit kept here is kept there too."""
        check_is("other", other, ChannelMasks, "the ChannelMasks to compare with")
        if self.widths != other.widths:
            return False
        return not any((self._masks[name] & ~other._masks[name]).any() for name in self)

    @as_guest
    def apply(self, backbone: nn.Module) -> nn.Module:
        """A copy of a backbone with the dropped channels physically removed."""
        from pass_transfer.networks.removal import remove_channels

        return remove_channels(backbone, self)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with one uint8 tensor a group."""
        check_path("path", path)
        write_tensors(path, {name: mask.to(torch.uint8) for name, mask in self._masks.items()})

    @classmethod
    def load(cls, path: str | Path, groups: ChannelGroups | None = None) -> ChannelMasks:
        """Read what save wrote, in the groups' order.

        Raises MaskError where it does not fit them.
        """
        check_path("path", path)
        tensors = read_tensors(path)
        if groups is not None:
            shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            if shapes != {name: (group.width,) for name, group in groups.items()}:
                raise MaskError(f"{path} holds masks of another network")
            tensors = {name: tensors[name] for name in groups}
        if not all(_is_saved_mask(tensor) for tensor in tensors.values()):
            raise MaskError(f"{path} does not hold channel masks (uint8, zeros and ones)")
        return cls({name: tensor.bool() for name, tensor in tensors.items()})


def _is_saved_mask(tensor: torch.Tensor) -> bool:
    return tensor.dtype == torch.uint8 and not (tensor > 1).any()
