"""Masks as text: hexadecimal digits for each channel group, the first channel the highest bit."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pass_transfer.masks import ChannelMasks


def packed(masks: ChannelMasks) -> dict[str, str]:
    """Masks by group as hexadecimal digits."""
    found = {}
    for name, mask in masks.items():
        bits = "".join("1" if kept else "0" for kept in mask.tolist())
        digits = -(-len(bits) // 4)
        found[name] = f"{int(bits, 2):0{digits}x}"
    return found


def unpacked(digits: Mapping[str, str], widths: Mapping[str, int]) -> ChannelMasks:
    """What packed wrote, for groups of these widths."""
    masks = {}
    for name, text in digits.items():
        bits = f"{int(text, 16):0{widths[name]}b}"
        masks[name] = torch.tensor([bit == "1" for bit in bits])
    return ChannelMasks(masks)
