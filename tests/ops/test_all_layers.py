"""What holds for every layer under masks: layouts, autocast, threads, higher derivatives."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional

from pass_transfer import ops
from pass_transfer.errors import KernelError

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def randn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fused_with_all(x, weight, bias):
    """A fused layer whose inputs and outputs are kept and dropped, with a residual."""
    return ops.masked_conv_norm_act(
        x,
        weight,
        bias,
        inputs=ops.Inputs(randn(1, 2, 2, 5, 5), torch.tensor([1.0, 1, 1, 1, 0, 0])),
        outputs=ops.Outputs(kept=2, count=3),
        epilogue=ops.Epilogue(randn(2, 2, 2, 3, 3), randn(3, 2, 1, 3, 3)),
    )


@pytest.mark.parametrize(
    "layer, x, weight",
    [
        (ops.masked_conv2d, (2, 4, 5, 5), (3, 4, 3, 3)),
        (ops.masked_linear, (2, 4), (3, 4)),
        (fused_with_all, (2, 4, 5, 5), (3, 6, 3, 3)),
    ],
)
def test_under_autocast_layers_compute_and_answer_in_its_type(implementation, layer, x, weight):
    given_ = randn(4, *x), randn(5, *weight), randn(6, 3)
    exact = layer(*given_)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(*given_)
    pairs = zip(found, exact) if isinstance(found, tuple) else [(found, exact)]
    for y, expected in pairs:
        assert y.dtype is torch.bfloat16
        torch.testing.assert_close(y.float(), expected, rtol=0.03, atol=0.1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("weights", LAYOUTS)
def test_results_lie_as_x_does(implementation, layout, weights):
    x = torch.randn(2, 4, 5, 5).contiguous(memory_format=layout)
    weight = torch.randn(3, 4, 3, 3).contiguous(memory_format=weights)
    for y in (ops.masked_conv2d(x, weight), ops.masked_conv_norm_act(x, weight)[0]):
        assert y.is_contiguous(memory_format=layout)


def test_sums_do_not_depend_on_the_number_of_threads(operators):
    before, found = torch.get_num_threads(), []
    x, grad = torch.randn(8, 64, 28, 28), torch.randn(8, 64, 28, 28)
    weight, norm = torch.randn(64, 64, 1, 1), ops.Norm(torch.ones(64), torch.zeros(64))

    def sums(x):
        _, dots = operators.mask_channels_backward(grad, x, torch.ones(64))
        scores = torch.ones(64, requires_grad=True)
        y, _ = ops.masked_conv_norm_act(x, weight, inputs=ops.Inputs(mask=scores), norm=norm)
        y.sum().backward()
        return dots, scores.grad

    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for layout in LAYOUTS:
                found.append(sums(x.contiguous(memory_format=layout)))
    finally:
        torch.set_num_threads(before)
    for one, other in zip(found, found[2:]):
        assert all(torch.equal(a, b) for a, b in zip(one, other))


def masked_conv2d(x, mask):
    return ops.masked_conv2d(x, randn(0, 3, 4, 3, 3), None, ops.Masks(mask))


def masked_linear(x, mask):
    return ops.masked_linear(x.mean((2, 3)), randn(1, 3, 4), None, ops.Masks(mask))


def masked_conv_norm_act(x, mask):
    weight = randn(0, 3, 4, 3, 3)
    return ops.masked_conv_norm_act(x, weight, inputs=ops.Inputs(mask=mask))[0]


# Of x and a mask, where the mask's second derivatives are not zero.
LAYERS = {
    "mask_channels": ops.mask_channels,
    "masked_conv2d": masked_conv2d,
    "masked_linear": masked_linear,
    "masked_conv_norm_act": masked_conv_norm_act,
}
COMPOSITIONS = {
    "mask_channels": lambda x, m: x * m[:, None, None],
    "masked_linear": lambda x, m: functional.linear(x.mean((2, 3)) * m, randn(1, 3, 4).double()),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_second_derivatives_are_true_or_refused(implementation, accuracy, layer):
    def second(dtype, layer):
        x = randn(2, 2, 4, 5, 5).to(dtype).requires_grad_()
        mask = torch.tensor([1.0, 0, 1, 1], dtype=dtype).requires_grad_()
        (to_x,) = torch.autograd.grad(layer(x, mask).square().sum(), x, create_graph=True)
        to_x.square().sum().backward()
        return mask.grad

    if implementation == "compiled":
        with pytest.raises(KernelError, match="no second derivatives"):
            second(torch.float32, LAYERS[layer])
    elif layer in COMPOSITIONS:
        true = second(torch.float64, COMPOSITIONS[layer])
        accuracy.near(second(torch.float32, LAYERS[layer]), true)


@pytest.mark.parametrize("layer", LAYERS)
def test_forward_mode_derivatives_are_not_silently_zero(implementation, layer):
    x, mask = torch.randn(2, 4, 5, 5), torch.ones(4)
    refused = implementation == "compiled" or layer != "masked_linear"
    with pytest.raises((KernelError, RuntimeError)) if refused else nullcontext():
        _, tangent = torch.func.jvp(lambda x: LAYERS[layer](x, mask), (x,), (torch.ones_like(x),))
        assert tangent.abs().sum() > 0
