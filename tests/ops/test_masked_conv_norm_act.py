"""Fused layers against float64, on compiled kernels and in plain torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from pass_transfer import ops

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def randn(generator, *shape, layout=torch.contiguous_format):
    return torch.randn(*shape, generator=generator).contiguous(memory_format=layout)


def fused(g):
    """masked_conv_norm_act of arguments by the names of its schema."""
    return ops.masked_conv_norm_act(
        g["x"],
        g["weight"],
        g["bias"],
        inputs=ops.Inputs(g["dropped"], g["in_mask"], g["in_order"]),
        outputs=ops.Outputs(g["out_order"], g["out_kept"], g["out_count"]),
        window=ops.Window(g["stride"], g["padding"], g["dilation"]),
        norm=ops.Norm(g["norm_weight"], g["norm_bias"], g["eps"]),
        epilogue=ops.Epilogue(g["residual"], g["residual_dropped"], g["relu"]),
    )


@st.composite
def blocks(draw):
    """A fused layer's arguments by the names of its schema, and a generator."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    layout = draw(st.sampled_from(LAYOUTS))
    few = draw(st.booleans())  # positions, so that most of what there is to move is the weight
    width, outs = (draw(st.integers(24, 48) if few else st.integers(1, 12)) for _ in range(2))
    ins = draw(st.integers(1, width))
    others = draw(st.integers(0, width - ins))
    any_kernel = st.tuples(st.integers(1, 3), st.integers(0, 2))
    kernel, padding = draw(st.sampled_from([(1, 0), (3, 2)]) if few else any_kernel)
    stride, dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    few_images = st.sampled_from([(1, 1), (2, 3), (4, 2), (5, 3)])
    any_images = st.tuples(st.integers(1, 3), st.integers(5, 8))
    batch, side = draw(few_images if few else any_images)
    count = draw(st.integers(1, outs))
    kept = draw(st.integers(1, count))
    out = (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    # Of fewer than 16 values, normalisation leaves rounding.
    normed, added = draw(st.booleans()) and batch * out * out >= 16, draw(st.booleans())

    def maybe(make, *conditions):
        return make() if all(conditions) else None

    def images(channels, size):
        return lambda: randn(generator, batch, channels, size, size, layout=layout)

    mask = (torch.rand(ins, generator=generator) < 0.8).float()
    given_ = {
        "x": images(ins, side)(),
        "weight": randn(generator, outs, width, kernel, kernel),
        "bias": maybe(lambda: randn(generator, outs), draw(st.booleans())),
        "dropped": maybe(images(others, side), others),
        "in_mask": torch.cat([mask, torch.zeros(others)]),
        "in_order": maybe(lambda: torch.randperm(width, generator=generator), draw(st.booleans())),
        "norm_weight": maybe(lambda: randn(generator, outs), normed),
        "norm_bias": maybe(lambda: randn(generator, outs), normed),
        "eps": 1e-3,
        "residual": maybe(images(kept, out), added),
        "residual_dropped": maybe(images(count - kept, out), added, kept < count),
        "out_order": maybe(lambda: torch.randperm(outs, generator=generator), draw(st.booleans())),
        "out_kept": kept,
        "out_count": count,
        "relu": draw(st.booleans()),
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
    }
    return given_, generator


def average(t):
    return t.mean((0, 2, 3), keepdim=True)


class Normalisation:
    """What batch normalisation of y, whose terms are of this size, makes of it.

    That is the sizes after it, and those of the gradient before it.
    """

    def __init__(self, y, size, eps):
        self.deviation = (y.var((0, 2, 3), correction=0, keepdim=True) + eps).sqrt()
        self.hat = (y - average(y)) / self.deviation
        # The deviation's size, as a share of it.
        self.share = average(self.hat.abs() * size) / self.deviation
        self.size = (size + average(size)) / self.deviation + self.hat.abs() * self.share

    def before(self, g, to_y, scale):
        """The size of y's gradient, where g arrives at scale * hat in the first channels."""
        n = g.shape[1]
        hat, size = self.hat[:, :n], self.size[:, :n]
        of_mean, of_slope = average(g.abs()), average(g * hat).abs() * size
        taken_off = of_mean + of_slope + hat.abs() * average(g.abs() * size)
        factor = scale.abs()[:n] / self.deviation[:, :n]
        return factor * (g.abs() + taken_off) + to_y.abs() * self.share[:, :n]


class Truth:
    """A fused layer in float64, and how large the terms of its outputs and gradients are."""

    def __init__(self, given_, rounding):
        g = {
            name: t.double() if isinstance(t, torch.Tensor) and t.is_floating_point() else t
            for name, t in given_.items()
        }
        self.g, self.rounding, self.kept = g, rounding, g["out_kept"]
        self.x, self.mask = g["x"].requires_grad_(), g["in_mask"].requires_grad_()
        self.residual = None if g["residual"] is None else g["residual"].requires_grad_()
        self.window = g["stride"], g["padding"], g["dilation"]
        dropped, order = g["dropped"], g["out_order"]
        self.wide = self.x if dropped is None else torch.cat([self.x, dropped], 1)
        count, ins = g["out_count"], self.wide.shape[1]
        self.rows = torch.arange(count) if order is None else order[:count]
        columns = torch.arange(ins) if g["in_order"] is None else g["in_order"][:ins]
        self.weight = g["weight"][self.rows][:, columns]
        self._convolve()
        z, size = self._normalise()
        z, size = self._add(z, size)
        self.z, self.out = z.detach(), z.relu() if g["relu"] else z
        if g["relu"]:
            size = size * (self.z >= -rounding * size)  # the rest is zero whatever its rounding
        self.size = size

    def _convolve(self):
        g, masked = self.g, self.wide * self.mask[:, None, None]
        bias = None if g["bias"] is None else g["bias"][self.rows]
        self.y = functional.conv2d(masked, self.weight, bias, *self.window)
        self.y.retain_grad()
        # Normalisation takes a bias out again.
        of_bias = None if bias is None or g["norm_weight"] is not None else bias.abs()
        absolute = masked.detach().abs(), self.weight.abs()
        self.y_size = functional.conv2d(*absolute, of_bias, *self.window)

    def _normalise(self):
        g, y = self.g, self.y
        self.norm = None
        if g["norm_weight"] is None:
            return y, self.y_size
        self.scale = g["norm_weight"][self.rows][:, None, None]
        shift = g["norm_bias"][self.rows][:, None, None]
        variance = y.var((0, 2, 3), correction=0, keepdim=True)
        z = (y - average(y)) / (variance + g["eps"]).sqrt() * self.scale + shift
        self.norm = Normalisation(y.detach(), self.y_size, g["eps"])
        return z, self.norm.size * self.scale.abs() + shift.abs()

    def _add(self, z, size):
        if self.residual is None:
            return z, size
        rest = self.g["residual_dropped"]
        both = self.residual if rest is None else torch.cat([self.residual, rest], 1)
        return z + both, size + both.detach().abs()

    def far_from_zero(self, upstream):
        """The gradient but for where rounding decides what ReLU lets pass."""
        if not self.g["relu"]:
            return upstream
        return upstream * (self.z.abs() >= self.rounding * self.size)[:, : self.kept]

    def backward(self, upstream):
        """Gradients to the leaves; returns the sizes of the terms of that to the inputs."""
        kept, upstream = self.kept, upstream.double()
        self.out[:, :kept].backward(upstream)
        passed = upstream
        if self.g["relu"]:
            passed = upstream * (self.out.detach()[:, :kept] > 0)
        size = passed.abs()
        if self.norm is not None:
            size = self.norm.before(passed, self.y.grad[:, :kept], self.scale)
        weight = self.weight[:kept].abs()
        return torch.nn.grad.conv2d_input(self.wide.shape, weight, size, *self.window)


@settings(max_examples=200)
@given(blocks())
def test_a_fused_layer_and_its_gradients_are_the_true_ones(implementation, accuracy, problem):
    given_, generator = problem
    leaf = {name: given_[name] for name in ("x", "in_mask", "residual")}
    leaf = {name: None if t is None else t.clone().requires_grad_() for name, t in leaf.items()}
    kept, dropped = fused(given_ | leaf)
    true, count = Truth(given_, accuracy.ROUNDING), given_["out_kept"]
    accuracy.near(kept, true.out[:, :count], true.size[:, :count])
    assert (dropped is None) == (count == given_["out_count"])
    if dropped is not None:
        accuracy.near(dropped, true.out[:, count:], true.size[:, count:])
        assert not dropped.requires_grad
    upstream = true.far_from_zero(randn(generator, *kept.shape))
    kept.backward(upstream)
    size = true.backward(upstream)
    mask = true.mask.detach()[:, None, None]
    accuracy.near(leaf["x"].grad, true.x.grad, (size * mask)[:, : true.x.shape[1]])
    # Normalisation takes the scale of a single input out again: what its mask's gradient sums
    # up then cancels.
    terms = accuracy.together(true.wide.detach() * size)
    accuracy.near(leaf["in_mask"].grad, true.mask.grad, terms)
    if true.residual is not None:
        accuracy.near(leaf["residual"].grad, true.residual.grad)


@pytest.mark.parametrize("ins", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_masks_gradient_that_normalisation_cancels_is_as_near(
    implementation, accuracy, ins, layout
):
    """Few inputs through 1 x 1 weights.

    Statistics in float32 go beyond this bound, as does a bias that normalisation takes out.
    """
    for seed in range(150):
        generator = torch.Generator().manual_seed(seed)
        x, weight, bias, scale, shift = (
            randn(generator, *s) for s in ((1, ins, 5, 5), (4, ins, 1, 1), (4,), (4,), (4,))
        )
        mask, upstream = torch.ones(ins, requires_grad=True), randn(generator, 1, 4, 5, 5)
        x = x.contiguous(memory_format=layout).requires_grad_()
        y, _ = ops.masked_conv_norm_act(
            x,
            weight,
            bias,
            inputs=ops.Inputs(mask=mask),
            window=ops.Window(stride=2, padding=2),
            norm=ops.Norm(scale, shift, 1e-3),
            epilogue=ops.Epilogue(relu=False),
        )
        y.backward(upstream)
        true_x, true_mask = (t.detach().double().requires_grad_() for t in (x, mask))
        masked = true_x * true_mask[:, None, None]
        y = functional.conv2d(masked, weight.double(), bias.double(), 2, 2)
        affine = scale.double(), shift.double()
        y = functional.batch_norm(y, None, None, *affine, True, 0.0, 1e-3)
        y.backward(upstream.double())
        accuracy.near(x.grad, true_x.grad)
        # A hundredth of the terms for the largest element.
        terms = (true_x * true_x.grad).detach().abs().sum((0, 2, 3))
        share = accuracy.NEAR * 1e-2 / accuracy.ROUNDING
        accuracy.near(mask.grad, true_mask.grad, share * terms)


@pytest.mark.parametrize("kept", [5, 17, 24])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_fused_layer_of_16_bits_is_as_near_as_what_torch_does_alone(
    implementation, dtype, layout, kept
):
    """Of 24 inputs `kept` are computed with; weights are in float32, as under autocast."""
    for seed in range(5):
        check_16_bits(seed, dtype, layout, kept)


def check_16_bits(seed, dtype, layout, kept):
    generator = torch.Generator().manual_seed(seed)
    x, residual, upstream = (
        randn(generator, 4, channels, 12, 12, layout=layout).to(dtype) for channels in (24, 20, 20)
    )
    weight = randn(generator, 20, 24, 3, 3) / 15
    scale, shift = 1 + randn(generator, 20) / 5, randn(generator, 20) / 5
    order = torch.randperm(24, generator=generator)
    mask = (torch.arange(24) < kept).float()
    mask[0] = 0.5

    def before_relu(x, mask, residual):
        masked = x * mask.to(x.dtype)[:, None, None]
        y = functional.conv2d(masked, weight[:, order].to(x.dtype), padding=1)
        affine = scale.to(mask.dtype), shift.to(mask.dtype)
        y = functional.batch_norm(y, None, None, *affine, True, 0.0, 1e-3)
        return y + residual

    def eager(x, mask, residual):
        return before_relu(x, mask, residual).relu()

    # Nearer to zero, rounding decides what ReLU lets pass.
    z = before_relu(x.double(), mask.double(), residual.double())
    upstream = upstream * (z.abs() > 0.1)

    def by_kernel(x, mask, residual):
        dropped = x[:, kept:].detach() if kept < 24 else None
        return ops.masked_conv_norm_act(
            x[:, :kept],
            weight,
            inputs=ops.Inputs(dropped, mask, order),
            window=ops.Window(padding=1),
            norm=ops.Norm(scale, shift, 1e-3),
            epilogue=ops.Epilogue(residual),
        )[0]

    def run(layer, of, sums):
        types = (x, of), (mask, sums), (residual, of)
        leaves = [t.to(kind, copy=True).requires_grad_() for t, kind in types]
        y = layer(*leaves)
        y.backward(upstream.to(of))
        return [y.detach(), leaves[0].grad[:, :kept], leaves[1].grad, leaves[2].grad]

    ours = run(by_kernel, dtype, torch.float32)
    theirs = run(eager, dtype, torch.float32)
    true = run(eager, torch.float64, torch.float64)
    for found, alone, expected in zip(ours, theirs, true):
        assert (found - expected).norm() <= 1.5 * (alone - expected).norm()


@pytest.mark.parametrize("images, whole", [(2, True), (400, False)])
def test_a_weight_is_gathered_where_many_positions_meet_it(operators, images, whole):
    generator = torch.Generator().manual_seed(0)
    x, weight = randn(generator, images, 32, 1, 1).requires_grad_(), randn(generator, 60, 64, 1, 1)
    in_order = torch.randperm(64, generator=generator)
    out_order = torch.randperm(60, generator=generator)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, record_shapes=True) as profile:
        inputs, outputs = ops.Inputs(order=in_order), ops.Outputs(out_order, 40)
        y, _ = ops.masked_conv_norm_act(x, weight, inputs=inputs, outputs=outputs)
        y.sum().backward()
    products = [e.input_shapes[1] for e in profile.events() if e.name == "aten::mm"]
    assert products == ([[64, 60], [60, 64]] if whole else [[32, 40], [40, 32]])


@settings(max_examples=100)
@given(blocks(), st.sampled_from([torch.float32, torch.bfloat16]), st.tuples(*[st.booleans()] * 3))
def test_what_a_fused_layer_returns_is_known_before_it_runs(
    operators, check_without_data, problem, dtype, needs
):
    g, generator = problem
    g = dict(g)
    for name in ("x", "dropped", "residual", "residual_dropped", "bias"):
        g[name] = None if g[name] is None else g[name].to(dtype)
    g |= {name: [g[name]] * 2 for name in ("stride", "padding", "dilation")} | {"pool": []}
    check_without_data(operators.masked_conv_norm_act, **g)
    schema = operators.masked_conv_norm_act.default._schema
    found = dict(zip([r.name for r in schema.returns], operators.masked_conv_norm_act(**g)))
    found.pop("out_dropped")
    shared = "x dropped in_mask in_order weight out_order relu stride padding dilation pool".split()
    learning = ("x", "in_mask", "residual")
    check_without_data(
        operators.masked_conv_norm_act_backward,
        **{name: g[name] for name in shared},
        **found,
        **{f"needs_{name}": need for name, need in zip(learning, needs)},
        grad=randn(generator, *found["out"].shape).to(dtype),
        added=g["residual"] is not None,
    )
