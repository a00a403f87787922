"""Channels times a mask, and both gradients in one pass."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pass_transfer import ops
from pass_transfer.errors import KernelError


@given(
    st.integers(0, 3),
    st.integers(1, 40),
    st.integers(1, 6),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.integers(0, 999),
)
def test_it_gives_both_gradients(
    operators, accuracy, batch, channels, side, channels_last, dtype, seed
):
    generator, shape = torch.Generator().manual_seed(seed), (batch, channels, side, side)
    x, grad = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    mask = (torch.rand(channels, generator=generator) < 0.5).float()
    factor = mask.to(dtype)[:, None, None]
    assert torch.equal(operators.mask_channels(x, mask), x * factor)
    dx, dmask = operators.mask_channels_backward(grad, x, mask)
    assert torch.equal(dx, grad * factor)
    accuracy.near(dmask, (x.double() * grad.double()).sum((0, 2, 3)))


@settings(max_examples=200)
@given(st.data())
def test_what_does_not_fit_is_refused_with_the_arguments_name(implementation, data):
    bad = {
        "x": [torch.zeros(4), torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, 5, 3, 3)],
        "mask": [torch.ones(3), torch.ones(5), torch.ones(4, device="meta")],
    }
    name = data.draw(st.sampled_from(sorted(bad)))
    good = {"x": torch.zeros(2, 4, 3, 3), "mask": torch.ones(4)}
    with pytest.raises((KernelError, NotImplementedError), match="x|mask"):
        ops.mask_channels(**good | {name: data.draw(st.sampled_from(bad[name]))})


@settings(max_examples=50)
@given(
    st.integers(0, 4),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    st.integers(0, 999),
)
def test_what_it_returns_is_known_before_it_runs(
    operators, check_without_data, batch, sides, channels_last, dtype, seed
):
    generator, shape = torch.Generator().manual_seed(seed), [batch, *sides]
    layout = torch.channels_last if channels_last and len(shape) == 4 else torch.contiguous_format
    x, grad = (
        torch.randn(shape, generator=generator).contiguous(memory_format=layout).to(dtype)
        for _ in range(2)
    )
    mask = (torch.rand(shape[1], generator=generator) < 0.5).float()
    check_without_data(operators.mask_channels, x=x, mask=mask)
    check_without_data(operators.mask_channels_backward, grad=grad, x=x, mask=mask)


def test_masked_channels_are_zero_and_the_mask_gets_its_true_gradient(implementation):
    x, mask = torch.randn(2, 3, 4, 5), torch.tensor([1.0, 0.0, 1.0], requires_grad=True)
    y = ops.mask_channels(x, mask)
    assert torch.equal(y[:, 0], x[:, 0]) and not y[:, 1].any()
    upstream = torch.randn_like(y)
    y.backward(upstream)
    torch.testing.assert_close(mask.grad, torch.einsum("bchw,bchw->c", x, upstream))


def test_features_without_positions_are_masked_too(implementation):
    x = torch.randn(4, 3)
    assert torch.equal(
        ops.mask_channels(x, torch.tensor([True, False, True])), x * torch.tensor([1.0, 0.0, 1.0])
    )
