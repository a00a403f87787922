"""Operators against float64, on compiled kernels and in plain torch."""

from contextlib import suppress
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from pass_transfer import ops
from pass_transfer.errors import KernelError, MaskError

NEAR = 2e-5  # of a tensor's largest element
ROUNDING = (
    2 * 2**-24
)  # of the size of an element's terms, two roundings of float32: where they cancel, drawn problems come to two thirds of it


def near(value, reference, size=None):
    """Every element is within 2e-5 of the reference's largest or, where that is what is left of a sum that cancels, within float32's rounding of its terms.

    `size` says how large the terms of each element are: their absolute values, added up in float64 (or `together`). They allow more than 2e-5
    only where the largest element of the reference is less than a 168th of the largest size.
    """
    assert value.shape == reference.shape
    if reference.numel():
        error, largest = (
            (value.double() - reference).abs().max().item(),
            reference.abs().max().item(),
        )
        assert error <= max(NEAR * largest, 0.0 if size is None else ROUNDING * size.max().item())


def in_float64(layer, leaves, upstream):
    """What a layer of these leaves gives, and their gradients."""
    leaves = [None if t is None else t.detach().double().requires_grad_() for t in leaves]
    y = layer(*leaves)
    y.backward(upstream.double())
    return [y.detach(), *(None if t is None else t.grad for t in leaves)]


def sizes(layer, leaves, upstream):
    """The sizes of the terms of what in_float64 gives: a layer that multiplies and adds makes of absolute values the sums of absolute values."""
    return in_float64(
        layer, [None if t is None else t.detach().abs() for t in leaves], upstream.abs()
    )


def spread(mask, like):
    """A mask (C,) at every position (B, C, H, W), where its gradient has not been added up yet."""
    return None if mask is None else mask.detach()[:, None, None].expand_as(like)


def together(size):
    """The size of a sum over positions (B, C, H, W), made in float64, of what float32 has rounded: independent roundings add up in squares."""
    return size.square().sum((0, 2, 3)).sqrt()


def draw_mask(draw, width, generator):
    share = draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    return (torch.rand(width, generator=generator) < share).float()


def randn(generator, *shape, layout=torch.contiguous_format):
    return torch.randn(*shape, generator=generator).contiguous(memory_format=layout)


@dataclass
class Convolution:
    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    in_mask: torch.Tensor
    out_mask: torch.Tensor | None
    support: torch.Tensor | None
    in_margin: torch.Tensor | None
    out_margin: torch.Tensor | None
    window: dict
    generator: torch.Generator


@st.composite
def convolutions(draw):
    """A small masked convolution: shapes, window, groups (depthwise too), layout, masks, and what its gradient comes from."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    groups = draw(st.sampled_from([1, 1, 1, 2, 4]))
    ins, outs = (groups * draw(st.integers(1, 12)) for _ in range(2))
    if draw(st.booleans()) and groups > 1:
        ins = outs = groups  # depthwise
    kernel, stride, dilation = (draw(st.integers(1, n)) for n in (3, 2, 2))
    padding, side = draw(st.integers(0, 2)), draw(st.integers(5, 9))
    layout = draw(st.sampled_from([torch.contiguous_format, torch.channels_last]))
    x = randn(generator, draw(st.integers(0, 3)), ins, side, side + 1, layout=layout)
    weight = randn(
        generator,
        outs,
        ins // groups,
        kernel,
        kernel,
        layout=draw(st.sampled_from([torch.contiguous_format, torch.channels_last])),
    )
    out_mask = draw_mask(draw, outs, generator) if draw(st.booleans()) else None
    return Convolution(
        x,
        weight,
        randn(generator, outs) if draw(st.booleans()) else None,
        draw_mask(draw, ins, generator),
        out_mask,
        draw_mask(draw, outs, generator) if out_mask is None and draw(st.booleans()) else None,
        draw_mask(draw, ins, generator) if draw(st.booleans()) else None,
        draw_mask(draw, outs, generator) if out_mask is not None and draw(st.booleans()) else None,
        {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups},
        generator,
    )


def wanted(mask, margin, gradient):
    """Ones where an element of a mask gets its gradient."""
    if gradient == "exact":
        return torch.ones_like(mask)
    return mask if gradient == "kept" or margin is None else torch.maximum(mask, margin)


@settings(max_examples=200)
@given(convolutions(), st.sampled_from(ops.GRADIENTS))
def test_masked_convolution_and_all_its_gradients_are_the_true_ones(
    implementation, problem, gradient
):
    p = problem
    leaves = [
        None if t is None else t.clone().requires_grad_()
        for t in (p.x, p.weight, p.bias, p.in_mask, p.out_mask)
    ]
    x, weight, bias, in_mask, out_mask = leaves
    y = ops.masked_conv2d(
        x,
        weight,
        bias,
        in_mask,
        out_mask,
        **p.window,
        gradient=gradient,
        support=p.support,
        in_margin=p.in_margin,
        out_margin=p.out_margin,
    )
    upstream = randn(p.generator, *y.shape) * (1 if p.support is None else p.support[:, None, None])
    y.backward(upstream)

    def layer(x, weight, bias, in_mask, out_mask):
        before = functional.conv2d(x * in_mask, weight, bias, *p.window.values())
        return before if out_mask is None else before * out_mask

    wide = [x, weight, bias, spread(in_mask, x), spread(out_mask, y)]
    true, size = in_float64(layer, wide, upstream), sizes(layer, wide, upstream)
    for number, mask, margin in ((4, p.in_mask, p.in_margin), (5, p.out_mask, p.out_margin)):
        if mask is not None:
            heard = wanted(mask, margin, gradient)
            true[number], size[number] = (
                true[number].sum((0, 2, 3)) * heard,
                together(size[number]) * heard,
            )
    for found, expected, terms in zip(
        [y, *(None if t is None else t.grad for t in leaves)], true, size
    ):
        if expected is not None:
            near(found, expected, terms)


@settings(max_examples=100)
@given(convolutions())
def test_bfloat16_is_as_near_as_what_torch_does_alone(implementation, problem):
    p, half = problem, torch.bfloat16
    rounded = [None if t is None else t.to(half) for t in (p.x, p.weight, p.bias)]
    upstream = randn(
        p.generator, *functional.conv2d(p.x, p.weight, p.bias, *p.window.values()).shape
    ).to(half)

    def run(convolve, dtype):
        leaves = [None if t is None else t.to(dtype).requires_grad_() for t in rounded] + [
            p.in_mask.to(
                torch.float64 if dtype is torch.float64 else torch.float32
            ).requires_grad_()
        ]
        y = convolve(*leaves)
        y.backward(upstream.to(dtype))
        return [y.detach(), *(leaf.grad for leaf in leaves if leaf is not None)]

    def eager(x, weight, bias, mask):
        return functional.conv2d(
            x * mask.to(x.dtype)[:, None, None], weight, bias, *p.window.values()
        )

    true = run(eager, torch.float64)
    ours = run(
        lambda x, weight, bias, mask: ops.masked_conv2d(x, weight, bias, mask, **p.window), half
    )
    for found, theirs, expected in zip(ours, run(eager, half), true):
        if expected.numel():
            error = (theirs.double() - expected).abs().max()
            assert (
                found.double() - expected
            ).abs().max() <= 1.5 * error + 2**-8 * expected.abs().max()


@settings(max_examples=100)
@given(
    st.lists(st.integers(1, 4), max_size=2),
    st.integers(1, 20),
    st.integers(1, 20),
    st.booleans(),
    st.sampled_from(ops.GRADIENTS),
    st.integers(0, 999),
    st.data(),
)
def test_masked_linear_and_all_its_gradients_are_the_true_ones(
    implementation, batch, ins, outs, biased, gradient, seed, data
):
    generator = torch.Generator().manual_seed(seed)
    leaves = [
        randn(generator, *batch, ins),
        randn(generator, outs, ins),
        randn(generator, outs) if biased else None,
        draw_mask(data.draw, ins, generator),
        draw_mask(data.draw, outs, generator),
    ]
    leaves = [None if t is None else t.requires_grad_() for t in leaves]
    y = ops.masked_linear(*leaves, gradient=gradient)
    upstream = randn(generator, *y.shape)
    y.backward(upstream)

    def layer(x, weight, bias, in_mask, out_mask):
        return functional.linear(x * in_mask, weight, bias) * out_mask

    true, size = in_float64(layer, leaves, upstream), sizes(layer, leaves, upstream)
    for number in (4, 5):
        heard = wanted(leaves[number - 1].detach(), None, gradient)
        true[number], size[number] = true[number] * heard, size[number] * heard
    for found, expected, terms in zip(
        [y, *(None if t is None else t.grad for t in leaves)], true, size
    ):
        if expected is not None:
            near(found, expected, terms)


@st.composite
def blocks(draw):
    """Keyword arguments of masked_conv_norm_act, and a generator."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    layout = draw(st.sampled_from([torch.contiguous_format, torch.channels_last]))
    few = draw(st.booleans())  # positions, so that most of what there is to move is the weight
    width, outs = (draw(st.integers(24, 48) if few else st.integers(1, 12)) for _ in range(2))
    ins = draw(st.integers(1, width))
    shadows = draw(st.integers(0, width - ins))
    kernel, padding = draw(
        st.sampled_from([(1, 0), (3, 2)])
        if few
        else st.tuples(st.integers(1, 3), st.integers(0, 2))
    )
    stride, dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    batch, side = draw(
        st.sampled_from([(1, 1), (2, 3), (4, 2), (5, 3)])
        if few
        else st.tuples(st.integers(1, 3), st.integers(5, 8))
    )
    count = draw(st.integers(1, outs))
    kept = draw(st.integers(1, count))
    out = (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    normed, added = (
        draw(st.booleans()) and batch * out * out >= 16,
        draw(st.booleans()),
    )  # of fewer, normalisation leaves rounding
    mask = torch.cat([(torch.rand(ins, generator=generator) < 0.8).float(), torch.zeros(shadows)])
    return {
        "x": randn(generator, batch, ins, side, side, layout=layout),
        "weight": randn(generator, outs, width, kernel, kernel),
        "bias": randn(generator, outs) if draw(st.booleans()) else None,
        "shadow": randn(generator, batch, shadows, side, side, layout=layout) if shadows else None,
        "in_mask": mask,
        "in_order": torch.randperm(width, generator=generator) if draw(st.booleans()) else None,
        "norm_weight": randn(generator, outs) if normed else None,
        "norm_bias": randn(generator, outs) if normed else None,
        "eps": 1e-3,
        "residual": randn(generator, batch, kept, out, out, layout=layout) if added else None,
        "residual_shadow": randn(generator, batch, count - kept, out, out, layout=layout)
        if added and kept < count
        else None,
        "out_order": torch.randperm(outs, generator=generator) if draw(st.booleans()) else None,
        "out_kept": kept,
        "out_count": count,
        "relu": draw(st.booleans()),
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
    }, generator


def average(t):
    return t.mean((0, 2, 3), keepdim=True)


class Normalisation:
    """What batch normalisation of y, whose terms are of this size, makes of it: the sizes after it, and those of the gradient before it."""

    def __init__(self, y, size, eps):
        self.deviation = (y.var((0, 2, 3), correction=0, keepdim=True) + eps).sqrt()
        self.hat = (y - average(y)) / self.deviation
        self.share = (
            average(self.hat.abs() * size) / self.deviation
        )  # the deviation's size, as a share of it
        self.size = (size + average(size)) / self.deviation + self.hat.abs() * self.share

    def before(self, g, to_y, scale):
        """The size of y's gradient, where g arrives at scale * hat in the first channels."""
        n = g.shape[1]
        hat, size = self.hat[:, :n], self.size[:, :n]
        taken_off = (
            average(g.abs()) + average(g * hat).abs() * size + hat.abs() * average(g.abs() * size)
        )
        return (
            scale.abs()[:n] / self.deviation[:, :n] * (g.abs() + taken_off)
            + to_y.abs() * self.share[:, :n]
        )


@settings(max_examples=200)
@given(blocks())
def test_a_fused_layer_and_its_gradients_are_the_true_ones(implementation, problem):
    given_, generator = problem
    leaf = {name: given_[name] for name in ("x", "in_mask", "residual")}
    leaf = {name: None if t is None else t.clone().requires_grad_() for name, t in leaf.items()}
    kept, rest = ops.masked_conv_norm_act(**given_ | leaf)
    g = {
        name: t.double() if isinstance(t, torch.Tensor) and t.is_floating_point() else t
        for name, t in given_.items()
    }
    x, mask, window = (
        g["x"].requires_grad_(),
        g["in_mask"].requires_grad_(),
        (g["stride"], g["padding"], g["dilation"]),
    )
    wide = x if g["shadow"] is None else torch.cat([x, g["shadow"]], 1)
    columns = (
        torch.arange(wide.shape[1]) if g["in_order"] is None else g["in_order"][: wide.shape[1]]
    )
    rows = (
        torch.arange(g["out_count"]) if g["out_order"] is None else g["out_order"][: g["out_count"]]
    )
    weight, bias, normed = (
        g["weight"][rows][:, columns],
        None if g["bias"] is None else g["bias"][rows],
        g["norm_weight"] is not None,
    )
    z = y = functional.conv2d(wide * mask[:, None, None], weight, bias, *window)
    y.retain_grad()
    with torch.no_grad():  # normalisation takes a bias out again
        size = functional.conv2d(
            (wide * mask[:, None, None]).abs(),
            weight.abs(),
            None if bias is None or normed else bias.abs(),
            *window,
        )
    if normed:
        scale, shift = (g[name][rows][:, None, None] for name in ("norm_weight", "norm_bias"))
        z = (y - average(y)) / (
            y.var((0, 2, 3), correction=0, keepdim=True) + g["eps"]
        ).sqrt() * scale + shift
        normalisation = Normalisation(y.detach(), size, g["eps"])
        size = normalisation.size * scale.abs() + shift.abs()
    added = None if g["residual"] is None else g["residual"].requires_grad_()
    if added is not None:
        both = (
            added if g["residual_shadow"] is None else torch.cat([added, g["residual_shadow"]], 1)
        )
        z, size = z + both, size + both.detach().abs()
    out, count = z.relu() if g["relu"] else z, g["out_kept"]
    if g["relu"]:
        size = size * (z.detach() >= -ROUNDING * size)  # the rest is zero whatever its rounding
    near(kept, out[:, :count], size[:, :count])
    assert (rest is None) == (count == g["out_count"])
    if rest is not None:
        near(rest, out[:, count:], size[:, count:])
        assert not rest.requires_grad
    upstream = randn(generator, *kept.shape)
    if g["relu"]:
        upstream = (
            upstream * (z.detach().abs() >= ROUNDING * size)[:, :count]
        )  # nearer to zero, rounding decides what passes
    kept.backward(upstream)
    out[:, :count].backward(upstream.double())
    passed = upstream.double() * (out.detach()[:, :count] > 0) if g["relu"] else upstream.double()
    size = normalisation.before(passed, y.grad[:, :count], scale) if normed else passed.abs()
    size = torch.nn.grad.conv2d_input(wide.shape, weight[:count].abs(), size, *window)
    near(leaf["x"].grad, x.grad, (size * mask.detach()[:, None, None])[:, : x.shape[1]])
    # Normalisation takes the scale of a single input out again: what its mask's gradient sums up then cancels.
    near(leaf["in_mask"].grad, mask.grad, together(wide.detach() * size))
    if added is not None:
        near(leaf["residual"].grad, added.grad)


@pytest.mark.parametrize("ins", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_masks_gradient_that_normalisation_cancels_is_as_near(implementation, ins, layout):
    # Few inputs through 1 x 1 weights: float32 statistics, or a bias that normalisation takes out again, go beyond this bound.
    for seed in range(150):
        generator = torch.Generator().manual_seed(seed)
        x, weight, bias, scale, shift = (
            randn(generator, *s) for s in ((1, ins, 5, 5), (4, ins, 1, 1), (4,), (4,), (4,))
        )
        mask, upstream = torch.ones(ins, requires_grad=True), randn(generator, 1, 4, 5, 5)
        x = x.contiguous(memory_format=layout).requires_grad_()
        ops.masked_conv_norm_act(
            x,
            weight,
            bias,
            in_mask=mask,
            norm_weight=scale,
            norm_bias=shift,
            eps=1e-3,
            relu=False,
            stride=2,
            padding=2,
        )[0].backward(upstream)
        true = [t.detach().double().requires_grad_() for t in (x, mask)]
        y = functional.conv2d(
            true[0] * true[1][:, None, None], weight.double(), bias.double(), 2, 2
        )
        functional.batch_norm(
            y, None, None, scale.double(), shift.double(), True, 0.0, 1e-3
        ).backward(upstream.double())
        near(x.grad, true[0].grad)
        near(
            mask.grad,
            true[1].grad,
            NEAR * 1e-2 / ROUNDING * (true[0] * true[0].grad).detach().abs().sum((0, 2, 3)),
        )  # a hundredth of the terms for the largest element


@pytest.mark.parametrize("kept", [5, 17, 24])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_fused_layer_of_16_bits_is_as_near_as_what_torch_does_alone(
    implementation, dtype, layout, kept
):
    """Of 24 inputs `kept` are computed with, the others listen, and the weights are in float32, as under autocast."""
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        x, residual, upstream = (
            randn(generator, 4, channels, 12, 12, layout=layout).to(dtype)
            for channels in (24, 20, 20)
        )
        weight, scale, shift, order = (
            randn(generator, 20, 24, 3, 3) / 15,
            1 + randn(generator, 20) / 5,
            randn(generator, 20) / 5,
            torch.randperm(24, generator=generator),
        )
        mask = (torch.arange(24) < kept).float()
        mask[0] = 0.5

        def eager(x, mask, residual):
            y = functional.conv2d(
                x * mask.to(x.dtype)[:, None, None], weight[:, order].to(x.dtype), padding=1
            )
            return (
                functional.batch_norm(
                    y, None, None, *(t.to(mask.dtype) for t in (scale, shift)), True, 0.0, 1e-3
                )
                + residual
            ).relu()

        def fused(x, mask, residual):
            return ops.masked_conv_norm_act(
                x[:, :kept],
                weight,
                shadow=x[:, kept:].detach() if kept < 24 else None,
                in_mask=mask,
                in_order=order,
                norm_weight=scale,
                norm_bias=shift,
                eps=1e-3,
                residual=residual,
                padding=1,
            )[0]

        def run(layer, of, sums):
            leaves = [
                x.to(of).requires_grad_(),
                mask.to(sums).requires_grad_(),
                residual.to(of).requires_grad_(),
            ]
            y = layer(*leaves)
            y.backward(upstream.to(of))
            return [y.detach(), leaves[0].grad[:, :kept], leaves[1].grad, leaves[2].grad]

        true = run(eager, torch.float64, torch.float64)
        for found, theirs, expected in zip(
            run(fused, dtype, torch.float32), run(eager, dtype, torch.float32), true
        ):
            assert (found - expected).norm() <= 1.5 * (theirs - expected).norm()


@given(
    st.integers(0, 3),
    st.integers(1, 40),
    st.integers(1, 6),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.integers(0, 999),
)
def test_mask_and_reduce_gives_both_gradients(
    operators, batch, channels, side, channels_last, dtype, seed
):
    generator = torch.Generator().manual_seed(seed)
    x, grad = (
        torch.randn(batch, channels, side, side, generator=generator).to(dtype) for _ in range(2)
    )
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    mask = (torch.rand(channels, generator=generator) < 0.5).float()
    assert torch.equal(operators.mask_channels(x, mask), x * mask.to(dtype)[:, None, None])
    dx, dmask = operators.mask_channels_backward(grad, x, mask)
    assert torch.equal(dx, grad * mask.to(dtype)[:, None, None])
    near(dmask, (x.double() * grad.double()).sum((0, 2, 3)))


def test_sums_do_not_depend_on_the_number_of_threads(operators):
    before, found = torch.get_num_threads(), []
    x, grad, weight = (
        torch.randn(8, 64, 28, 28),
        torch.randn(8, 64, 28, 28),
        torch.randn(64, 64, 1, 1),
    )
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for layout in (torch.contiguous_format, torch.channels_last):
                sums = operators.mask_channels_backward(
                    grad, x.contiguous(memory_format=layout), torch.ones(64)
                )[1]
                scores = torch.ones(64, requires_grad=True)
                ops.masked_conv_norm_act(
                    x.contiguous(memory_format=layout),
                    weight,
                    in_mask=scores,
                    norm_weight=torch.ones(64),
                    norm_bias=torch.zeros(64),
                )[0].sum().backward()
                found.append((sums, scores.grad))
    finally:
        torch.set_num_threads(before)
    assert all(
        torch.equal(a, b) for one, other in zip(found, found[2:]) for a, b in zip(one, other)
    )


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=30),
    st.integers(1, 20),
    st.integers(0, 2**31),
    st.data(),
)
def test_compiled_topk_is_the_references_with_lists_of_what_is_kept(
    operators, widths, levels, seed, data
):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-levels, levels + 1, (sum(widths),), generator=generator).float()
    offsets = torch.tensor([0, *torch.tensor(widths).cumsum(0).tolist()])
    floors = torch.tensor([data.draw(st.integers(0, w)) for w in widths])
    k = data.draw(st.integers(int(floors.sum()), len(scores)))
    found = operators.global_topk_mask(scores, offsets, k, floors)
    for value, expected in zip(found, ops.reference.global_topk_mask(scores, offsets, k, floors)):
        assert torch.equal(value, expected)
    for start, end, count in zip(offsets[:-1].tolist(), offsets[1:].tolist(), found[2].tolist()):
        order = found[3][start:end].tolist()
        assert sorted(order) == list(range(end - start)) and order[:count] == sorted(order[:count])
        assert bool(found[0][start:end][found[3][start:end][:count]].all())


BAD = {
    "x": [
        [1.0],
        torch.zeros(2, 4, 6, 6).to_sparse(),
        torch.zeros(2, 4, 6, 6).to(torch.float8_e4m3fn),
        torch.zeros(2, 0, 6, 6),
        torch.zeros(2, 4, 0, 6),
        torch.zeros(2, 4, 5),
        torch.zeros(2, 4, 6, 6, dtype=torch.long),
        torch.zeros(2, 7, 6, 6),
        torch.zeros(2, 4, 6, 6, device="meta"),
    ],
    "weight": [
        torch.zeros(3, 5, 3, 3),
        torch.zeros(0, 4, 3, 3),
        torch.zeros(3, 4, 3, 3).double(),
        torch.zeros(3, 4, 9, 9),
        torch.zeros(3, 4),
    ],
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
    "stride": [-1, 0, (1, -1), (1, 1, 1), 1.5, 2**70],
    "padding": [-1, (0, -1), 2**62],
    "dilation": [0, -2, 2**63 - 1],
    "groups": [0, 3, -1, 1.0, None, 2**40],
    "gradient": ["some", ""],
}


@settings(max_examples=200)
@given(st.data())
def test_a_convolution_that_does_not_fit_is_refused_with_the_arguments_name(implementation, data):
    name = data.draw(st.sampled_from(sorted(BAD)))
    value = data.draw(st.sampled_from(BAD[name]))
    good = {
        "x": torch.zeros(2, 4, 6, 6),
        "weight": torch.zeros(3, 4, 3, 3),
        "bias": torch.zeros(3),
        "in_mask": torch.ones(4),
        "out_mask": torch.ones(3),
    }
    ops.masked_conv2d(**good)
    with pytest.raises(
        (KernelError, NotImplementedError), match="x|weight" if name in ("x", "weight") else name
    ):
        ops.masked_conv2d(**good | {name: value})


@settings(max_examples=200)
@given(st.data())
def test_a_fused_layer_that_does_not_fit_is_refused_with_the_arguments_name(implementation, data):
    bad = {
        "x": BAD["x"],
        "weight": [
            torch.zeros(3, 3, 3, 3),
            *BAD["weight"][1:],
            torch.zeros(3, 4, 3, 3, requires_grad=True),
        ],
        "in_mask": BAD["in_mask"][:1] + [torch.ones(5)],
        "eps": [0.0, -1.0, float("nan"), "small", None],
        "shadow": [
            torch.zeros(2, 0, 6, 6).double(),
            torch.zeros(2, 1, 5, 5),
            torch.zeros(2, 9, 6, 6),
            torch.zeros(2, 1, 6, 6).double(),
        ],
        "in_order": [
            torch.tensor([0, 1, 2, 4]),
            torch.tensor([0, 1, 2, 1]),
            torch.tensor([0.0]),
            torch.tensor([-1, 0, 1, 2]),
            torch.tensor([0]),
        ],
        "bias": [[0.0] * 3, torch.zeros(2), torch.zeros(3, 1), torch.zeros(3, requires_grad=True)],
        "pool": [
            2,
            None,
            (2, 2),
            (0, 1, 0),
            (16, 1, 0),
            (3, 0, 1),
            (3, 1, 2),
            (3, 1, -1),
            (9, 1, 0),
        ],
        "norm_weight": [torch.ones(2), None],
        "norm_bias": [torch.ones(2), None],
        "residual": [torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4, 4).double()],
        "residual_shadow": [torch.zeros(2, 2, 4, 4)],
        "out_order": [torch.tensor([0, 1, 3]), torch.tensor([0, 1, 0]), torch.tensor([[0]])],
        "out_kept": [0, -1, 4, 2.0],
        "out_count": [0, 4, "3"],
        "stride": BAD["stride"],
        "padding": BAD["padding"],
        "dilation": BAD["dilation"],
    }
    name = data.draw(st.sampled_from(sorted(bad)))
    value = data.draw(st.sampled_from(bad[name]))
    good = {
        "x": torch.zeros(2, 4, 6, 6, requires_grad=True),
        "weight": torch.zeros(3, 4, 3, 3),
        "in_mask": torch.ones(4),
        "norm_weight": torch.ones(3),
        "norm_bias": torch.ones(3),
    }
    ops.masked_conv_norm_act(**good)
    words = {
        "x": "x|weight",
        "weight": "x|weight",
        "shadow": "shadow|in_mask",
        "out_count": "out_kept|out_count",
        "norm_weight": "norm_",
        "norm_bias": "norm_",
    }
    with pytest.raises((KernelError, NotImplementedError), match=words.get(name, name)):
        ops.masked_conv_norm_act(**good | {name: value})


@settings(max_examples=200)
@given(st.data())
def test_a_linear_layer_that_does_not_fit_is_refused_with_the_arguments_name(implementation, data):
    bad = {
        "x": [torch.zeros(2, 5), torch.zeros(2, 4).double(), torch.zeros(2, 4, dtype=torch.long)],
        "weight": [torch.zeros(3, 5), torch.zeros(3, 4, 1), torch.zeros(3, 4).double()],
        "bias": BAD["bias"],
        "in_mask": BAD["in_mask"],
        "out_mask": BAD["out_mask"],
        "support": BAD["support"],
        "in_margin": BAD["in_margin"],
        "out_margin": BAD["out_margin"],
        "gradient": BAD["gradient"],
    }
    name = data.draw(st.sampled_from(sorted(bad)))
    good = {
        "x": torch.zeros(2, 4),
        "weight": torch.zeros(3, 4),
        "bias": torch.zeros(3),
        "in_mask": torch.ones(4),
        "out_mask": torch.ones(3),
    }
    ops.masked_linear(**good)
    with pytest.raises(KernelError, match="x|weight" if name in ("x", "weight") else name):
        ops.masked_linear(**good | {name: data.draw(st.sampled_from(bad[name]))})


@settings(max_examples=200)
@given(st.data())
def test_a_mask_that_does_not_fit_is_refused_with_the_arguments_name(implementation, data):
    bad = {
        "x": [torch.zeros(4), torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, 5, 3, 3)],
        "mask": [torch.ones(3), torch.ones(5), torch.ones(4, device="meta")],
    }
    name = data.draw(st.sampled_from(sorted(bad)))
    with pytest.raises((KernelError, NotImplementedError), match="x|mask"):
        ops.mask_channels(
            **{"x": torch.zeros(2, 4, 3, 3), "mask": torch.ones(4)}
            | {name: data.draw(st.sampled_from(bad[name]))}
        )


@settings(max_examples=200)
@given(st.data())
def test_a_selection_that_does_not_fit_is_refused_with_the_arguments_name(implementation, data):
    bad = {
        "scores": [
            torch.zeros(2, 4),
            torch.zeros(7),
            torch.zeros(8, dtype=torch.long),
            torch.full((8,), float("nan")),
            torch.full((8,), float("-inf")),
        ],
        "offsets": [
            None,
            torch.zeros(3, dtype=torch.long, device="meta"),
            torch.tensor([0, 8]),
            torch.tensor([0, 9, 8]),
            torch.tensor([0, -1, 8]),
            torch.tensor([1, 4, 8]),
            torch.tensor([0.0, 4, 8]),
            torch.tensor([[0, 4, 8]]),
        ],
        "k": [-1, 1, 9, 4.0, None, 2**70],
        "floors": [
            torch.zeros(2, dtype=torch.long, device="meta"),
            torch.tensor([1]),
            torch.tensor([5, 0]),
            torch.tensor([-1, 1]),
            torch.tensor([1.0, 1.0]),
        ],
    }
    name = data.draw(st.sampled_from(sorted(bad)))
    good = {
        "scores": torch.arange(8.0),
        "offsets": torch.tensor([0, 4, 8]),
        "k": 4,
        "floors": torch.tensor([1, 1]),
    }
    ops.global_topk_mask(**good)
    with pytest.raises(MaskError, match="cannot keep|k is" if name == "k" else name):
        ops.global_topk_mask(**good | {name: data.draw(st.sampled_from(bad[name]))})


@pytest.mark.parametrize(
    "layer, shapes, counts",
    [
        ("masked_conv2d", {"x": (2, 4, 5, 5), "weight": (3, 4, 3, 3)}, {}),
        ("masked_linear", {"x": (2, 4), "weight": (3, 4)}, {}),
        (
            "masked_conv_norm_act",
            {
                "x": (2, 4, 5, 5),
                "weight": (3, 6, 3, 3),
                "shadow": (2, 2, 5, 5),
                "residual": (2, 2, 3, 3),
                "residual_shadow": (2, 1, 3, 3),
            },
            {"in_mask": torch.tensor([1.0, 1, 1, 1, 0, 0]), "out_kept": 2, "out_count": 3},
        ),
    ],
)
def test_under_autocast_layers_compute_and_answer_in_its_type(
    implementation, layer, shapes, counts
):
    generator = torch.Generator().manual_seed(0)
    given_ = (
        {name: randn(generator, *shape) for name, shape in shapes.items()}
        | {"bias": randn(generator, 3)}
        | counts
    )
    exact = getattr(ops, layer)(**given_)
    with torch.autocast("cpu", torch.bfloat16):
        found = getattr(ops, layer)(**given_)
    for y, expected in zip(found, exact) if isinstance(found, tuple) else [(found, exact)]:
        assert y.dtype is torch.bfloat16
        torch.testing.assert_close(y.float(), expected, rtol=0.03, atol=0.1)


@pytest.mark.parametrize("n", [1, 2, 999, 30_000, 100_000])
def test_exactly_k_of_many_scores_with_many_ties(implementation, n):
    scores, layers = torch.randint(0, 40, (n,)).float(), min(n, 50)
    offsets = torch.linspace(0, n, layers + 1).long()
    floors = offsets.diff() // 10
    for k in {int(floors.sum()), n // 3 or 1, n}:
        if k < floors.sum():
            continue
        mask, _, kept, _ = ops.global_topk_mask(scores, offsets, k, floors)
        again = ops.global_topk_mask(scores, offsets, k, floors).mask
        assert (
            int(mask.sum()) == k == int(kept.sum())
            and set(mask.tolist()) <= {0.0, 1.0}
            and (kept >= floors).all()
            and torch.equal(mask, again)
        )
        assert torch.equal(mask, ops.reference.global_topk_mask(scores, offsets, k, floors)[0])


@pytest.mark.parametrize("images, whole", [(2, True), (400, False)])
def test_a_weight_is_gathered_where_many_positions_meet_it(operators, images, whole):
    generator = torch.Generator().manual_seed(0)
    x, weight = randn(generator, images, 32, 1, 1).requires_grad_(), randn(generator, 60, 64, 1, 1)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True
    ) as profile:
        y, _ = ops.masked_conv_norm_act(
            x,
            weight,
            in_order=torch.randperm(64, generator=generator),
            out_order=torch.randperm(60, generator=generator),
            out_kept=40,
        )
        y.sum().backward()
    assert [e.input_shapes[1] for e in profile.events() if e.name == "aten::mm"] == (
        [[64, 60], [60, 64]] if whole else [[32, 40], [40, 32]]
    )


def test_a_weight_without_gradient_costs_none(operators):
    x, weight, mask = (
        torch.randn(2, 8, 6, 6, requires_grad=True),
        torch.randn(4, 8, 3, 3),
        torch.ones(8, requires_grad=True),
    )
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True
    ) as profile:
        ops.masked_conv2d(x, weight, None, mask).sum().backward()
    backward = [e for e in profile.events() if e.name == "aten::convolution_backward"]
    assert len(backward) == 1 and weight.grad is None


def layers(**more):
    """(name, call of x and mask) of each operator that x goes through, where a mask's second derivatives are not zero."""
    weight, flat = (
        torch.randn(3, 4, 3, 3, generator=torch.Generator().manual_seed(0)),
        torch.randn(3, 4, generator=torch.Generator().manual_seed(1)),
    )
    return {
        "mask_channels": ops.mask_channels,
        "masked_conv2d": lambda x, m: ops.masked_conv2d(x, weight, None, m, **more),
        "masked_linear": lambda x, m: ops.masked_linear(x.mean((2, 3)), flat, None, m),
        "masked_conv_norm_act": lambda x, m: ops.masked_conv_norm_act(x, weight, in_mask=m)[0],
    }


@pytest.mark.parametrize("layer", layers())
def test_second_derivatives_are_true_or_refused(implementation, layer):
    def second(dtype, layer):
        x, mask = (
            randn(torch.Generator().manual_seed(2), 2, 4, 5, 5).to(dtype).requires_grad_(),
            torch.tensor([1.0, 0, 1, 1], dtype=dtype).requires_grad_(),
        )
        (to_x,) = torch.autograd.grad(layer(x, mask).square().sum(), x, create_graph=True)
        to_x.square().sum().backward()
        return mask.grad

    if implementation == "compiled":
        with pytest.raises(KernelError, match="no second derivatives"):
            second(torch.float32, layers()[layer])
    elif layer != "masked_conv_norm_act" and layer != "masked_conv2d":
        compositions = {
            "mask_channels": lambda x, m: x * m[:, None, None],
            "masked_linear": lambda x, m: functional.linear(
                x.mean((2, 3)) * m,
                torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).double(),
            ),
        }
        near(second(torch.float32, layers()[layer]), second(torch.float64, compositions[layer]))


@pytest.mark.parametrize("layer", layers())
def test_forward_mode_derivatives_are_not_silently_zero(implementation, layer):
    x, mask = torch.randn(2, 4, 5, 5), torch.ones(4)
    with (
        pytest.raises((KernelError, RuntimeError))
        if implementation == "compiled" or layer != "masked_linear"
        else suppress()
    ):
        _, tangent = torch.func.jvp(lambda x: layers()[layer](x, mask), (x,), (torch.ones_like(x),))
        assert tangent.abs().sum() > 0


@pytest.mark.parametrize("dtype, ones", [(torch.bfloat16, 257), (torch.float16, 2049)])
def test_masks_of_16_bits_may_hold_more_ones_than_the_type_counts_to(implementation, dtype, ones):
    x, mask, weight = (
        torch.ones(1, ones + 1),
        torch.ones(ones + 1, dtype=dtype),
        torch.ones(2, ones + 1),
    )
    mask[3] = 0
    assert ops.masked_linear(x, weight, in_mask=mask).tolist() == [[ones, ones]]


def test_what_a_kept_gradient_does_not_need_may_be_changed_in_place(implementation):
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    y = ops.masked_conv2d(x, torch.randn(3, 4, 3, 3), in_mask=torch.ones(4), gradient="kept")
    y.relu_().sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("weights", [torch.contiguous_format, torch.channels_last])
def test_results_lie_as_x_does(implementation, layout, weights):
    x, weight = (
        torch.randn(2, 4, 5, 5).contiguous(memory_format=layout),
        torch.randn(3, 4, 3, 3).contiguous(memory_format=weights),
    )
    for y in (ops.masked_conv2d(x, weight), ops.masked_conv_norm_act(x, weight)[0]):
        assert y.is_contiguous(memory_format=layout)


def test_a_fused_layer_does_not_leave_out_a_gradient_silently(implementation):
    x, weight = torch.randn(2, 4, 5, 5), torch.randn(3, 4, 3, 3, requires_grad=True)
    with pytest.raises(KernelError, match="weight requires a gradient"):
        ops.masked_conv_norm_act(x, weight)
    with torch.no_grad():
        assert ops.masked_conv_norm_act(x, weight)[0].shape == (2, 3, 3, 3)


@pytest.mark.parametrize(
    "given_, words",
    [
        ({"in_mask": None}, "shadow is given without in_mask"),
        ({"in_mask": torch.ones(5)}, "in_mask is not zero"),
        ({"in_order": torch.tensor([0, 1, 2, 9, 3])}, "in_order"),
        ({"in_order": torch.tensor([0, 1, 2, 2, 3])}, "in_order"),
    ],
)
def test_what_only_listens_is_checked_before_it_is_computed(implementation, given_, words):
    with pytest.raises(KernelError, match=words):
        ops.masked_conv_norm_act(
            **{
                "x": torch.randn(2, 3, 5, 5),
                "weight": torch.randn(4, 5, 3, 3),
                "shadow": torch.randn(2, 2, 5, 5),
                "in_mask": torch.tensor([1.0, 1, 1, 0, 0]),
            }
            | given_
        )


WITHOUT_DATA = (
    "test_schema",
    "test_faketensor",
)  # what an operator aliases, and shapes, strides and dtypes as they are known before it runs


def check_without_data(operator, *arguments):
    torch.library.opcheck(operator.default, arguments, test_utils=WITHOUT_DATA)


def pairs(*values):
    return [[v, v] for v in values]


@settings(max_examples=100)
@given(convolutions(), st.sampled_from(ops.GRADIENTS), st.tuples(*[st.booleans()] * 5))
def test_what_a_convolution_returns_is_known_before_it_runs(operators, p, gradient, needs):
    window = (
        *pairs(*(p.window[name] for name in ("stride", "padding", "dilation"))),
        p.window["groups"],
        gradient,
        p.support,
        p.in_margin,
        p.out_margin,
    )
    check_without_data(
        operators.masked_conv2d, p.x, p.weight, p.bias, p.in_mask, p.out_mask, *window
    )
    y, before = operators.masked_conv2d(p.x, p.weight, p.bias, p.in_mask, p.out_mask, *window)
    upstream = randn(p.generator, *y.shape) * (1 if p.support is None else p.support[:, None, None])
    check_without_data(
        operators.masked_conv2d_backward,
        upstream,
        p.x,
        p.weight,
        p.in_mask,
        p.out_mask,
        y if gradient == "kept" else before,
        *window,
        list(needs),
    )


@settings(max_examples=100)
@given(blocks(), st.sampled_from([torch.float32, torch.bfloat16]), st.tuples(*[st.booleans()] * 3))
def test_what_a_fused_layer_returns_is_known_before_it_runs(operators, problem, dtype, needs):
    g, generator = problem
    x, shadow, residual, residual_shadow, bias = (
        None if g[name] is None else g[name].to(dtype)
        for name in ("x", "shadow", "residual", "residual_shadow", "bias")
    )
    window = *pairs(g["stride"], g["padding"], g["dilation"]), []
    arguments = (
        x,
        shadow,
        g["in_mask"],
        g["in_order"],
        g["weight"],
        bias,
        g["norm_weight"],
        g["norm_bias"],
        g["eps"],
        residual,
        residual_shadow,
        g["out_order"],
        g["out_kept"],
        g["out_count"],
        g["relu"],
        *window,
    )
    check_without_data(operators.masked_conv_norm_act, *arguments)
    a, _, *found = operators.masked_conv_norm_act(*arguments)
    check_without_data(
        operators.masked_conv_norm_act_backward,
        randn(generator, *a.shape).to(dtype),
        x,
        shadow,
        g["in_mask"],
        g["in_order"],
        g["weight"],
        a,
        *found,
        residual is not None,
        g["out_order"],
        g["relu"],
        *window,
        list(needs),
    )


@settings(max_examples=50)
@given(
    st.integers(0, 4),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    st.integers(0, 999),
)
def test_what_masking_channels_returns_is_known_before_it_runs(
    operators, batch, sides, channels_last, dtype, seed
):
    generator, shape = torch.Generator().manual_seed(seed), [batch, *sides]
    layout = torch.channels_last if channels_last and len(shape) == 4 else torch.contiguous_format
    x, grad = (randn(generator, *shape, layout=layout).to(dtype) for _ in range(2))
    mask = draw_mask(lambda _: 0.5, shape[1], generator)
    check_without_data(operators.mask_channels, x, mask)
    check_without_data(operators.mask_channels_backward, grad, x, mask)
