"""Attention whose heads can be removed, in place of torch's and torchvision's own.

Those compute with the weights of their linear layers, and with a number of heads that follows
from the width of the network. Here the linear layers are called as layers, so that what they
take in can be masked and looked at, and heads are counted by their weights.
Names of tensors stay, but for torch's `in_proj_weight`, which is `in_proj.weight` here.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad, scaled_dot_product_attention

from pass_transfer.errors import BackboneError

PACKED = "in_proj_"  # before the names of torch's packed weight and bias
APART = -100.0  # added to the logits of two places that are no neighbours
MOST_SHARP = math.log(100.0)  # of the scaled cosine, arXiv 2111.09883, section 3.2


def open_attention(network: nn.Module) -> nn.Module:
    """Put attention with removable heads in place of torch's and torchvision's; in place."""
    for name, module in list(network.named_modules()):
        opened = _opened(module)
        if opened is module:
            continue
        if not name:
            return opened
        parent, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(parent), leaf, opened)
    return network


def named_as_open(tensors: Mapping[str, Tensor], own: Container[str]) -> dict[str, Tensor]:
    """A checkpoint's tensors by the names that they have here.

    Args:
        own: names of the network's tensors; what is named so in the network stays.
    """
    found = {}
    for name, tensor in tensors.items():
        before, packed, leaf = name.rpartition(PACKED)
        here = bool(packed) and leaf in ("weight", "bias") and name not in own
        found[f"{before}in_proj.{leaf}" if here else name] = tensor
    return found


def _opened(module: nn.Module) -> nn.Module:
    if type(module) is nn.MultiheadAttention and _is_plain(module):
        return SelfAttention(module)
    if type(module).__name__ in ("ShiftedWindowAttention", "ShiftedWindowAttentionV2"):
        return WindowAttention(module)
    return module


def _is_plain(module: nn.MultiheadAttention) -> bool:
    """Whether query, key and value are made by one weight, and nothing is added to them."""
    return module.in_proj_weight is not None and module.bias_k is None and not module.add_zero_attn


class SelfAttention(nn.Module):
    """Self-attention of tokens: torch's MultiheadAttention whose heads can be removed.

    Args:
        given: whose weights are taken over; query, key and value are of one tensor.
    """

    in_proj_bias = None  # without one, torch's encoder layer calls this and computes nothing itself

    def __init__(self, given: nn.MultiheadAttention):
        super().__init__()
        self.head_dim, self.dropout = given.head_dim, given.dropout
        self.batch_first = given.batch_first
        self.in_proj = _linear(given.in_proj_weight, given.in_proj_bias)
        self.out_proj = _linear(given.out_proj.weight, given.out_proj.bias)
        self.train(given.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """Tokens (B, N, E) to tokens (B, N, E), as torch has it: with None for the weights.

        Raises BackboneError for a key or value that is not the query, and for a mask.
        """
        if query is not key or key is not value or need_weights:
            raise BackboneError(
                "attention to other tokens than one's own has no removable heads; query, key and "
                "value are to be one tensor, as in attention(x, x, x)"
            )
        if key_padding_mask is not None or attn_mask is not None or is_causal:
            raise BackboneError("attention under a mask has no removable heads")
        tokens = query if self.batch_first else query.transpose(0, 1)
        made = _attend(self.in_proj(tokens), self.head_dim, self.dropout if self.training else 0.0)
        given = self.out_proj(made)
        return given if self.batch_first else given.transpose(0, 1), None


class WindowAttention(nn.Module):
    """Attention inside shifted windows of a map (Swin, arXiv 2103.14030, section 3.2).

    The second version (arXiv 2111.09883) compares by scaled cosine, and makes the bias of two
    places by a small network.

    Args:
        given: torchvision's layer, whose tensors and layers are taken over.
    """

    relative_position_index: Tensor

    def __init__(self, given: Any):
        super().__init__()
        self.window_size, self.shift_size = tuple(given.window_size), tuple(given.shift_size)
        self.attention_dropout, self.dropout = given.attention_dropout, given.dropout
        self.qkv, self.proj = given.qkv, given.proj
        self.head_dim = given.qkv.out_features // 3 // given.num_heads
        self.cosine = hasattr(given, "logit_scale")
        if self.cosine:
            self.logit_scale, self.cpb_mlp = given.logit_scale, given.cpb_mlp
            self.register_buffer("relative_coords_table", given.relative_coords_table)
        else:
            self.relative_position_bias_table = given.relative_position_bias_table
        self.register_buffer("relative_position_index", given.relative_position_index)
        self.train(given.training)

    def forward(self, x: Tensor) -> Tensor:
        """A map (B, H, W, C) to one of the same size."""
        batch, height, width, _ = x.shape
        tall, wide = self.window_size
        x = pad(x, (0, 0, 0, -width % wide, 0, -height % tall))
        shifts = [
            0 if window >= side else shift
            for window, side, shift in zip(self.window_size, x.shape[1:3], self.shift_size)
        ]
        if any(shifts):
            x = torch.roll(x, (-shifts[0], -shifts[1]), (1, 2))
        rows, columns = x.shape[1] // tall, x.shape[2] // wide
        windows = x.view(batch, rows, tall, columns, wide, -1).transpose(2, 3)
        tokens = windows.reshape(batch * rows * columns, tall * wide, -1)
        made = self._attend(tokens, self._bias(batch, rows, columns, shifts))
        x = made.view(batch, rows, columns, tall, wide, -1).transpose(2, 3)
        x = x.reshape(batch, rows * tall, columns * wide, -1)
        if any(shifts):
            x = torch.roll(x, shifts, (1, 2))
        return x[:, :height, :width].contiguous()

    def _attend(self, tokens: Tensor, bias: Tensor) -> Tensor:
        made: Tensor = self.qkv(tokens)
        if self.cosine and self.qkv.bias is not None:  # which keys have none of
            no_query, of_key, no_value = self.qkv.bias.chunk(3)
            made = made - torch.cat([no_query * 0, of_key, no_value * 0])
        drop = self.attention_dropout if self.training else 0.0
        sharpness = self.logit_scale.clamp(max=MOST_SHARP).exp() if self.cosine else None
        given = self.proj(_attend(made, self.head_dim, drop, bias, sharpness))
        return nn.functional.dropout(given, self.dropout, self.training)

    def _bias(self, batch: int, rows: int, columns: int, shifts: list[int]) -> Tensor:
        """What is added to the logits: (1 or windows, heads, N, N)."""
        places = self.window_size[0] * self.window_size[1]
        if self.cosine:
            table = 16 * torch.sigmoid(self.cpb_mlp(self.relative_coords_table).flatten(0, -2))
        else:
            table = self.relative_position_bias_table
        bias = table[self.relative_position_index.view(-1)].view(places, places, -1)
        bias = bias.permute(2, 0, 1)[None]
        if not any(shifts):
            return bias
        apart = self._apart(rows, columns, shifts, bias)[:, None]
        return (bias + apart).repeat(batch, 1, 1, 1)

    def _apart(self, rows: int, columns: int, shifts: list[int], like: Tensor) -> Tensor:
        """APART where two places of a window lie on other sides of the map, else 0: (W, N, N)."""
        sides = []
        for count, window, shift in zip((rows, columns), self.window_size, shifts):
            place = torch.arange(count * window, device=like.device)
            end = count * window
            sides.append((place >= end - window).int() + (place >= end - shift).int() * (shift > 0))
        region = 3 * sides[0][:, None] + sides[1]
        tall, wide = self.window_size
        windows = region.view(rows, tall, columns, wide).transpose(1, 2).reshape(-1, tall * wide)
        return (windows[:, None] != windows[:, :, None]).to(like.dtype) * APART


def _attend(
    qkv: Tensor,
    head_dim: int,
    dropout: float,
    bias: Tensor | None = None,
    sharpness: Tensor | None = None,
) -> Tensor:
    """Attention among N tokens: (B, N, 3 * heads * head_dim) to (B, N, heads * head_dim).

    Args:
        bias: (B or 1, heads, N, N), added to the logits.
        sharpness: (heads, 1, 1); tokens are compared by cosine, times this, where it is given.
    """
    batch, tokens, _ = qkv.shape
    query, key, value = qkv.view(batch, tokens, 3, -1, head_dim).permute(2, 0, 3, 1, 4).unbind(0)
    scale = None
    if sharpness is not None:
        query, key, scale = normalize(query, dim=-1) * sharpness, normalize(key, dim=-1), 1.0
    made = scaled_dot_product_attention(
        query, key, value, attn_mask=bias, dropout_p=dropout, scale=scale
    )
    made = made.transpose(1, 2)
    if torch.compiler.is_exporting():  # another runtime lays it out in another way
        made = made.clone(memory_format=torch.contiguous_format)
    return made.reshape(batch, tokens, -1)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer of tensors that exist."""
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    layer.weight = cast(nn.Parameter, weight)
    if bias is not None:
        layer.bias = cast(nn.Parameter, bias)
    return layer
