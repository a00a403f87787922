"""Global top-k over single weights in plain torch: the twin of csrc/topk_weights_cpu.cpp.

A radix select: the key of the last score that is kept is found digit by digit, by counting. The
scores are read in parts, so that no copy of them is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pass_transfer.errors import MaskError
from pass_transfer.ops.checks import short

DIGIT_BITS = 11
SCORES_A_PART = 1 << 20


def global_topk_weights(scores: Sequence[Tensor], k: int, magnitude: bool) -> list[Tensor]:
    """ops.global_topk_weights in plain torch."""
    _check(scores, k)
    kept = [torch.zeros(part.shape, dtype=torch.bool, device=part.device) for part in scores]
    flat = [part.detach().reshape(-1) for part in scores]
    threshold, left = _threshold(flat, k, magnitude)
    for part, mask in zip(flat, kept):
        places = mask.view(-1)
        for start, keys, _ in _parts([part], magnitude):
            chosen, equal = keys > threshold, keys == threshold
            taken = equal & (equal.cumsum(0) <= left)
            left -= int(taken.sum())
            places[start : start + len(keys)] = chosen | taken
    return kept


def _check(scores: Sequence[Tensor], k: int) -> None:
    """Raises MaskError for what the kernels refuse, before anything is computed."""
    count = sum(part.numel() for part in scores)
    for part in scores:
        if not part.is_floating_point():
            raise MaskError(f"scores hold {short(part)}; they must be floating")
        if part.dtype != scores[0].dtype:
            raise MaskError(
                f"scores hold {short(scores[0])} and {short(part)}; they must be of one dtype"
            )
    if not 0 <= k <= count:
        raise MaskError(f"cannot keep {k} of {count} weights")


def _threshold(flat: Sequence[Tensor], k: int, magnitude: bool) -> tuple[int, int]:
    """The key of the last score that is kept, and how many of that key are, the first ones."""
    wide = bool(flat) and flat[0].dtype == torch.float64
    shift = bits = 64 if wide else 32
    found, left = 0, k
    while shift:
        width = min(DIGIT_BITS, shift)
        shift -= width
        counts = torch.zeros(1 << width, dtype=torch.int64)
        for _, keys, finite in _parts(flat, magnitude):
            if not finite:
                raise MaskError("weight scores hold NaN or infinite values")
            unsigned = keys ^ -(2**63) if wide else keys
            above = shift + width
            if above < bits:
                same = ((unsigned >> above) & ((1 << (bits - above)) - 1)) == found
                unsigned = unsigned[same]
            digits = (unsigned >> shift) & ((1 << width) - 1)
            counts += torch.bincount(digits, minlength=1 << width).cpu()
        digit, left = _last_digit(counts.tolist(), left)
        found = (found << width) | digit
    return (found - 2**63 if wide else found), left


def _last_digit(counts: Sequence[int], left: int) -> tuple[int, int]:
    """The highest digit down to which `left` scores are, and how many of it itself are needed."""
    digit = len(counts) - 1
    while digit > 0 and counts[digit] < left:
        left -= counts[digit]
        digit -= 1
    return digit, left


def _parts(flat: Sequence[Tensor], magnitude: bool) -> Iterator[tuple[int, Tensor, bool]]:
    """Parts of all scores: where each starts in its tensor, its keys, whether it is finite."""
    for scores in flat:
        for start in range(0, len(scores), SCORES_A_PART):
            some = scores[start : start + SCORES_A_PART]
            values = some if some.dtype == torch.float64 else some.float()
            finite = bool(values.isfinite().all())
            yield start, _keys(values.abs() if magnitude else values + 0.0), finite


def _keys(values: Tensor) -> Tensor:
    """int64 keys in the order of values that are finite: of 64 bits signed, of 32 bits not."""
    if values.dtype == torch.float64:
        bits = values.view(torch.int64)
        return torch.where(bits < 0, bits ^ (2**63 - 1), bits)
    bits = values.view(torch.int32).long()
    return torch.where(bits < 0, bits.neg() - 1, bits + 2**31)
