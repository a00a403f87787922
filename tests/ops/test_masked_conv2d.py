"""Masked convolutions against float64, on compiled kernels and in plain torch."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from pass_transfer import ops
from pass_transfer.errors import KernelError

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def randn(generator, *shape, layout=torch.contiguous_format):
    return torch.randn(*shape, generator=generator).contiguous(memory_format=layout)


def draw_mask(draw, width, generator):
    share = draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    return (torch.rand(width, generator=generator) < share).float()


@dataclass
class Convolution:
    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    masks: dict
    window: dict
    generator: torch.Generator

    def run(self, x, weight, bias, in_mask, out_mask, **more):
        """The masked convolution of these leaves."""
        masks = self.masks | {"in_mask": in_mask, "out_mask": out_mask} | more
        return ops.masked_conv2d(x, weight, bias, ops.Masks(**masks), ops.Window(**self.window))

    def plain(self, x, weight, bias):
        """The convolution without masks."""
        return functional.conv2d(x, weight, bias, *self.window.values())

    def upstream(self, shape):
        """A gradient to the output, zero where the support is."""
        grad, support = randn(self.generator, *shape), self.masks["support"]
        return grad if support is None else grad * support[:, None, None]


@st.composite
def convolutions(draw):
    """A small masked convolution, and what its gradient comes from.

    Shapes, window, groups (depthwise too), layout and masks are drawn.
    """
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    groups = draw(st.sampled_from([1, 1, 1, 2, 4]))
    ins, outs = (groups * draw(st.integers(1, 12)) for _ in range(2))
    if draw(st.booleans()) and groups > 1:
        ins = outs = groups  # depthwise
    kernel, stride, dilation = (draw(st.integers(1, n)) for n in (3, 2, 2))
    padding, side = draw(st.integers(0, 2)), draw(st.integers(5, 9))
    layout, of_weight = draw(st.sampled_from(LAYOUTS)), draw(st.sampled_from(LAYOUTS))
    x = randn(generator, draw(st.integers(0, 3)), ins, side, side + 1, layout=layout)
    weight = randn(generator, outs, ins // groups, kernel, kernel, layout=of_weight)

    def maybe(width, *conditions):
        if not all(conditions) or not draw(st.booleans()):
            return None
        return draw_mask(draw, width, generator)

    out_mask = maybe(outs)
    masks = {
        "in_mask": draw_mask(draw, ins, generator),
        "out_mask": out_mask,
        "support": maybe(outs, out_mask is None),
        "in_margin": maybe(ins),
        "out_margin": maybe(outs, out_mask is not None),
    }
    window = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    bias = randn(generator, outs) if draw(st.booleans()) else None
    return Convolution(x, weight, bias, masks, window, generator)


def wanted(mask, margin, gradient):
    """Ones where an element of a mask gets its gradient."""
    if gradient == "exact":
        return torch.ones_like(mask)
    return mask if gradient == "kept" or margin is None else torch.maximum(mask, margin)


@settings(max_examples=200)
@given(convolutions(), st.sampled_from(ops.GRADIENTS))
def test_it_and_all_its_gradients_are_the_true_ones(implementation, accuracy, problem, gradient):
    p, masks = problem, problem.masks
    start = p.x, p.weight, p.bias, masks["in_mask"], masks["out_mask"]
    leaves = [None if t is None else t.clone().requires_grad_() for t in start]
    y = p.run(*leaves, gradient=gradient)
    upstream = p.upstream(y.shape)
    y.backward(upstream)

    def layer(x, weight, bias, in_mask, out_mask):
        before = p.plain(x * in_mask, weight, bias)
        return before if out_mask is None else before * out_mask

    x, weight, bias, in_mask, out_mask = leaves
    wide = [x, weight, bias, accuracy.spread(in_mask, x), accuracy.spread(out_mask, y)]
    true = accuracy.in_float64(layer, wide, upstream)
    size = accuracy.sizes(layer, wide, upstream)
    for number, side in ((4, "in"), (5, "out")):
        mask, margin = masks[f"{side}_mask"], masks[f"{side}_margin"]
        if mask is None:
            continue
        learning = wanted(mask, margin, gradient)
        true[number] = true[number].sum((0, 2, 3)) * learning
        size[number] = accuracy.together(size[number]) * learning
    found = [y, *(None if t is None else t.grad for t in leaves)]
    for ours, expected, terms in zip(found, true, size):
        if expected is not None:
            accuracy.near(ours, expected, terms)


@settings(max_examples=100)
@given(convolutions())
def test_bfloat16_is_as_near_as_what_torch_does_alone(implementation, accuracy, problem):
    p, half = problem, torch.bfloat16
    rounded = [None if t is None else t.to(half) for t in (p.x, p.weight, p.bias)]
    mask = p.masks["in_mask"]
    upstream = randn(p.generator, *p.plain(p.x, p.weight, p.bias).shape).to(half)

    def run(convolve):
        leaves = [None if t is None else t.clone().requires_grad_() for t in (*rounded, mask)]
        y = convolve(*leaves)
        y.backward(upstream)
        return [y.detach(), *(None if leaf is None else leaf.grad for leaf in leaves)]

    def eager(x, weight, bias, mask):
        return p.plain(x * mask.to(x.dtype)[:, None, None], weight, bias)

    def masked(x, weight, bias, mask):
        return ops.masked_conv2d(x, weight, bias, ops.Masks(mask), ops.Window(**p.window))

    def wide(x, weight, bias, mask):
        return p.plain(x * mask, weight, bias)

    true = accuracy.in_float64(wide, [*rounded, accuracy.spread(mask, p.x)], upstream)
    terms = accuracy.together(true[4])  # the mask's gradient is their sum
    true[4] = true[4].sum((0, 2, 3))
    for found, theirs, expected in zip(run(masked), run(eager), true):
        if expected is None or not expected.numel():
            continue
        error = (theirs.double() - expected).abs().max()
        size = expected.abs().max()
        if expected is true[4]:
            size = torch.maximum(size, terms.max())
        assert (found.double() - expected).abs().max() <= 1.5 * error + 2**-8 * size


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
    "gradient": ["some", ""],
    "stride": [-1, 0, (1, -1), (1, 1, 1), 1.5, 2**70],
    "padding": [-1, (0, -1), 2**62],
    "dilation": [0, -2, 2**63 - 1],
    "groups": [0, 3, -1, 1.0, None, 2**40],
}
WINDOW = ("stride", "padding", "dilation", "groups")


def by_name(x, weight, bias, **more):
    """masked_conv2d of arguments by the names that errors use."""
    window = {name: more.pop(name) for name in WINDOW if name in more}
    return ops.masked_conv2d(x, weight, bias, ops.Masks(**more), ops.Window(**window))


@settings(max_examples=200)
@given(st.data())
def test_what_does_not_fit_is_refused_with_the_arguments_name(implementation, data):
    name = data.draw(st.sampled_from(sorted(BAD)))
    value = data.draw(st.sampled_from(BAD[name]))
    good = {
        "x": torch.zeros(2, 4, 6, 6),
        "weight": torch.zeros(3, 4, 3, 3),
        "bias": torch.zeros(3),
        "in_mask": torch.ones(4),
        "out_mask": torch.ones(3),
    }
    by_name(**good)
    word = "x|weight" if name in ("x", "weight") else name
    with pytest.raises((KernelError, NotImplementedError), match=word):
        by_name(**good | {name: value})


def test_a_weight_without_gradient_costs_none(operators):
    x, weight = torch.randn(2, 8, 6, 6, requires_grad=True), torch.randn(4, 8, 3, 3)
    masks = ops.Masks(torch.ones(8, requires_grad=True))
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, record_shapes=True) as profile:
        ops.masked_conv2d(x, weight, None, masks).sum().backward()
    backward = [e for e in profile.events() if e.name == "aten::convolution_backward"]
    assert len(backward) == 1 and weight.grad is None


def test_what_a_kept_gradient_does_not_need_may_be_changed_in_place(implementation):
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    masks = ops.Masks(in_mask=torch.ones(4), gradient="kept")
    y = ops.masked_conv2d(x, torch.randn(3, 4, 3, 3), None, masks)
    y.relu_().sum().backward()
    assert x.grad.abs().sum() > 0


@settings(max_examples=100)
@given(convolutions(), st.sampled_from(ops.GRADIENTS), st.tuples(*[st.booleans()] * 5))
def test_what_it_returns_is_known_before_it_runs(operators, check_without_data, p, gradient, needs):
    both = {name: [p.window[name]] * 2 for name in ("stride", "padding", "dilation")}
    both |= {"x": p.x, "weight": p.weight, "groups": p.window["groups"], "gradient": gradient}
    both |= p.masks
    check_without_data(operators.masked_conv2d, **both, bias=p.bias)
    y, before = operators.masked_conv2d(**both, bias=p.bias)
    learning = ("x", "weight", "bias", "in_mask", "out_mask")
    check_without_data(
        operators.masked_conv2d_backward,
        **both,
        grad=p.upstream(y.shape),
        before=y if gradient == "kept" else before,
        **{f"needs_{name}": need for name, need in zip(learning, needs)},
    )
