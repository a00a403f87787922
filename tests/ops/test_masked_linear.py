"""Masked linear layers against float64, on compiled kernels and in plain torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from pass_transfer import ops
from pass_transfer.errors import KernelError


def draw_mask(draw, width, generator):
    share = draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    return (torch.rand(width, generator=generator) < share).float()


def draw_leaves(data, generator):
    """x, weight, bias and both masks."""
    batch = data.draw(st.lists(st.integers(1, 4), max_size=2))
    ins, outs = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20))
    bias = torch.randn(outs, generator=generator) if data.draw(st.booleans()) else None
    return [
        torch.randn(*batch, ins, generator=generator),
        torch.randn(outs, ins, generator=generator),
        bias,
        draw_mask(data.draw, ins, generator),
        draw_mask(data.draw, outs, generator),
    ]


@settings(max_examples=100)
@given(st.sampled_from(ops.GRADIENTS), st.integers(0, 999), st.data())
def test_it_and_all_its_gradients_are_the_true_ones(implementation, accuracy, gradient, seed, data):
    generator = torch.Generator().manual_seed(seed)
    leaves = draw_leaves(data, generator)
    leaves = [None if t is None else t.requires_grad_() for t in leaves]
    x, weight, bias, in_mask, out_mask = leaves
    y = ops.masked_linear(x, weight, bias, ops.Masks(in_mask, out_mask, gradient))
    upstream = torch.randn(y.shape, generator=generator)
    y.backward(upstream)

    def layer(x, weight, bias, in_mask, out_mask):
        return functional.linear(x * in_mask, weight, bias) * out_mask

    true = accuracy.in_float64(layer, leaves, upstream)
    size = accuracy.sizes(layer, leaves, upstream)
    if gradient != "exact":
        for number in (4, 5):
            kept = leaves[number - 1].detach()
            true[number], size[number] = true[number] * kept, size[number] * kept
    found = [y, *(None if t is None else t.grad for t in leaves)]
    for ours, expected, terms in zip(found, true, size):
        if expected is not None:
            accuracy.near(ours, expected, terms)


BAD = {
    "x": [torch.zeros(2, 5), torch.zeros(2, 4).double(), torch.zeros(2, 4, dtype=torch.long)],
    "weight": [torch.zeros(3, 5), torch.zeros(3, 4, 1), torch.zeros(3, 4).double()],
    "bias": [torch.zeros(2), torch.zeros(3, 1), torch.zeros(3).double()],
    "in_mask": [
        torch.ones(3),
        torch.full((4,), 0.5),
        torch.ones(4, dtype=torch.long),
        torch.ones(4, 1),
        torch.full((4,), float("nan")),
    ],
    "out_mask": [torch.ones(4), torch.full((3,), 2.0)],
    "support": [torch.ones(5), torch.full((3,), 0.5)],
    "in_margin": [torch.ones(9), torch.full((4,), 2.0)],
    "out_margin": [torch.ones(9), torch.full((3,), -1.0)],
    "gradient": ["some", ""],
}


def by_name(x, weight, bias, **masks):
    """masked_linear of arguments by the names that errors use."""
    return ops.masked_linear(x, weight, bias, ops.Masks(**masks))


@settings(max_examples=200)
@given(st.data())
def test_what_does_not_fit_is_refused_with_the_arguments_name(implementation, data):
    name = data.draw(st.sampled_from(sorted(BAD)))
    good = {
        "x": torch.zeros(2, 4),
        "weight": torch.zeros(3, 4),
        "bias": torch.zeros(3),
        "in_mask": torch.ones(4),
        "out_mask": torch.ones(3),
    }
    by_name(**good)
    with pytest.raises(KernelError, match="x|weight" if name in ("x", "weight") else name):
        by_name(**good | {name: data.draw(st.sampled_from(BAD[name]))})


@pytest.mark.parametrize("dtype, ones", [(torch.bfloat16, 257), (torch.float16, 2049)])
def test_masks_of_16_bits_may_hold_more_ones_than_the_type_counts_to(implementation, dtype, ones):
    x, mask = torch.ones(1, ones + 1), torch.ones(ones + 1, dtype=dtype)
    mask[3] = 0
    y = ops.masked_linear(x, torch.ones(2, ones + 1), None, ops.Masks(in_mask=mask))
    assert y.tolist() == [[ones, ones]]
