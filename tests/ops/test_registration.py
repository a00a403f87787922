"""The compiled operators as torch sees them.

That is shapes without data, gradients, torch.compile and torch.export.
"""

from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pass_transfer import ops
from pass_transfer.ops.operators import OPERATORS

NEAR_WINDOW = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1]}
FAR_WINDOW = NEAR_WINDOW | {"stride": [2, 2]}
NO_SETS = {"support": None, "in_margin": None, "out_margin": None}


def leaf(*shape, **kwargs):
    return torch.randn(*shape, **kwargs).requires_grad_()


def samples():
    """(operator, arguments by name) for every operator, in different ways through it.

    Shapes, layouts and options differ.
    """
    scores, offsets, floors = leaf(30), torch.tensor([0, 10, 30]), torch.tensor([1, 2])
    yield "global_topk_mask", {"scores": scores, "offsets": offsets, "k": 12, "floors": floors}
    parts = [torch.randn(3, 4), torch.randn(5)]
    yield "global_topk_weights", {"scores": parts, "k": 6, "magnitude": True}
    x = leaf(2, 6, 5, 5)
    rows = torch.randn(2, 6, 5, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    mask = (torch.arange(6) % 2).float().requires_grad_()
    for image in (x, rows):
        plain = {"x": image.detach(), "mask": mask.detach()}
        yield "mask_channels", {"x": image, "mask": mask}
        yield "mask_channels_backward", {"grad": torch.randn_like(image), **plain}
        yield from convolutions(image, mask)
        for dropped, norm, relu in ((False, False, False), (True, True, True), (True, False, True)):
            yield from fused_layers(image, mask, dropped, norm, relu)
    yield (
        "masked_linear",
        {
            "x": leaf(3, 6),
            "weight": leaf(4, 6),
            "bias": leaf(4),
            "in_mask": mask,
            "out_mask": torch.tensor([1.0, 0, 1, 1]).requires_grad_(),
            "gradient": "exact",
            **NO_SETS,
        },
    )


def convolutions(image, mask):
    """Masked convolutions of an image, and a gradient of one."""
    weight, out_mask = leaf(4, 6, 3, 3), torch.tensor([1.0, 0, 1, 1]).requires_grad_()
    forward = {"x": image, "weight": weight, "bias": leaf(4), "in_mask": mask, "groups": 1}
    for gradient in ops.GRADIENTS:
        masked = {"out_mask": out_mask, "gradient": gradient, **NO_SETS}
        yield "masked_conv2d", forward | FAR_WINDOW | masked
    frozen = {"weight": weight.detach(), "bias": None, "out_mask": None, "gradient": "exact"}
    supported = NO_SETS | {"support": out_mask.detach()}
    yield "masked_conv2d", forward | frozen | NEAR_WINDOW | supported
    grad = torch.empty_like(image.detach()[:, :4], memory_format=torch.preserve_format).normal_()
    yield (
        "masked_conv2d_backward",
        {
            "grad": grad,
            "x": image.detach(),
            "weight": weight.detach(),
            "in_mask": mask.detach(),
            "out_mask": None,
            "before": image.detach().new_empty(0),
            "groups": 1,
            "gradient": "exact",
            **NEAR_WINDOW,
            **NO_SETS,
            "needs_x": True,
            "needs_weight": True,
            "needs_bias": True,
            "needs_in_mask": True,
            "needs_out_mask": False,
        },
    )


def fused_layers(image, mask, dropped, norm, relu):
    """A fused layer of an image, and its gradient."""
    others = image.detach()[:, :2].clone(memory_format=torch.preserve_format) if dropped else None
    if dropped:
        mask = torch.cat([mask.detach(), torch.zeros(2)]).requires_grad_()
    both = {
        "x": image,
        "dropped": others,
        "in_mask": mask,
        "in_order": torch.arange(8),
        "weight": torch.randn(4, 8, 3, 3),
        "out_order": torch.tensor([2, 0, 1, 3]),
        "relu": relu,
        "pool": [],
        **NEAR_WINDOW,
    }
    forward = both | {
        "bias": None,
        "norm_weight": torch.rand(4) if norm else None,
        "norm_bias": torch.rand(4) if norm else None,
        "eps": 1e-5,
        "residual": None,
        "residual_dropped": None,
        "out_kept": 2,
        "out_count": 4 if dropped else 2,
    }
    yield "masked_conv_norm_act", forward
    operator = torch.ops.pass_transfer.masked_conv_norm_act
    with torch.no_grad():
        found = operator(**forward)
    saved = dict(zip([r.name for r in operator.default._schema.returns], found))
    saved.pop("out_dropped")
    plain = {n: v.detach() if isinstance(v, torch.Tensor) else v for n, v in both.items()}
    yield (
        "masked_conv_norm_act_backward",
        {
            "grad": torch.randn_like(saved["out"]),
            **plain,
            **saved,
            "added": False,
            "needs_x": True,
            "needs_in_mask": True,
            "needs_residual": dropped,
        },
    )


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=pytest.mark.skipif(
                not torch.cuda.is_available() or "cuda" not in ops.kernels.chosen().devices,
                reason="no CUDA kernels, or no GPU",
            ),
        ),
    ],
)
@pytest.mark.parametrize("number", range(29))
def test_opcheck(operators, number, device):
    cases = list(samples())
    assert len(cases) == 29
    name, arguments = cases[number]
    there = {
        n: a.detach().to(device).requires_grad_(a.requires_grad)
        if isinstance(a, torch.Tensor)
        else a
        for n, a in arguments.items()
    }
    torch.library.opcheck(getattr(operators, name).default, (), there)


def test_every_operator_is_checked(operators):
    names = {
        schema.name.split("::")[1]
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("pass_transfer::")
    }
    assert names == set(OPERATORS) == {name for name, _ in samples()}


def unlike(argument):
    """Arguments in an argument's place that seldom fit: shapes, dtypes, numbers."""
    if isinstance(argument, torch.Tensor):
        t = argument.detach()
        shapes = [
            t.flatten(),
            t[..., : t.shape[-1] // 2],
            t.new_zeros([s // 2 for s in t.shape]),
            t.new_zeros([2 * s for s in t.shape]),
            t.new_zeros(()),
            t.new_zeros(0),
            t.new_zeros(1).expand(t.shape),
        ]
        return st.sampled_from([*shapes, t.double(), t.long(), t.bfloat16(), t - 1, None])
    if isinstance(argument, (list, tuple)):
        return (
            st.lists(st.integers(-1, 4), max_size=3)
            if not argument or not isinstance(argument[0], bool)
            else st.lists(st.booleans(), min_size=len(argument), max_size=len(argument))
        )
    return {
        type(None): st.sampled_from([torch.zeros(2), torch.zeros(1, 1, 1, 1), torch.arange(3)]),
        bool: st.booleans(),
        int: st.sampled_from([-1, 0, 1, 3, 100]),
        float: st.just(float("nan")),
        str: st.sampled_from(["", "some", *ops.GRADIENTS]),
    }[type(argument)]


@settings(max_examples=200)
@pytest.mark.parametrize("operator", OPERATORS)
@given(st.data())
def test_arguments_that_do_not_fit_end_in_an_exception_at_most(operators, operator, data):
    fitting = [given_ for name, given_ in samples() if name == operator]
    arguments = dict(data.draw(st.sampled_from(fitting)))
    names = st.lists(st.sampled_from(sorted(arguments)), min_size=1, max_size=2, unique=True)
    for name in data.draw(names):
        arguments[name] = data.draw(unlike(arguments[name]))
    # RuntimeError: the dispatcher's, or no memory.
    with suppress(ValueError, TypeError, RuntimeError), torch.no_grad():
        getattr(operators, operator)(**arguments)


@pytest.mark.parametrize("number", range(29))
def test_arguments_may_lie_anywhere_in_memory(operators, number):
    name, arguments = list(samples())[number]
    together, apart = {}, {}
    for argument, value in arguments.items():
        tensor = isinstance(value, torch.Tensor)
        together[argument] = value.detach() if tensor else value
        apart[argument] = torch.stack([value.detach()] * 2, -1)[..., 0] if tensor else value
        if tensor and value.numel() > 1:
            assert not apart[argument].is_contiguous()
    operator = getattr(operators, name)
    for one, other in zip(as_tuple(operator(**together)), as_tuple(operator(**apart))):
        torch.testing.assert_close(one, other)


def as_tuple(results):
    return (results,) if isinstance(results, torch.Tensor) else results


class Layers(torch.nn.Module):
    """One of each operator, after another."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = (
            torch.nn.Conv2d(3, 8, 3).requires_grad_(False),
            torch.nn.Linear(8, 4),
        )
        self.register_buffer("offsets", torch.tensor([0, 8]))
        self.register_buffer("floors", torch.tensor([1]))

    def forward(self, x, scores):
        mask = ops.global_topk_mask(scores, self.offsets, 5, self.floors).mask
        conv, linear = self.conv, self.linear
        y = ops.masked_conv2d(x, conv.weight, conv.bias, ops.Masks(out_mask=mask))
        inputs = ops.Inputs(mask=mask)
        z, _ = ops.masked_conv_norm_act(y, torch.ones(8, 8, 1, 1), inputs=inputs)
        features = ops.mask_channels(z, mask).mean((2, 3))
        return ops.masked_linear(features, linear.weight, linear.bias, ops.Masks(mask))


def test_torch_compile_goes_through_without_a_break(operators):
    layers, x = Layers(), torch.randn(2, 3, 9, 9)
    found = []
    for run in (layers, torch.compile(layers, fullgraph=True, backend="aot_eager")):
        scores = torch.arange(8.0).requires_grad_()
        y = run(x, scores)
        y.square().sum().backward()
        found.append((y.detach(), scores.grad))
    for one, other in zip(*found):
        torch.testing.assert_close(one, other)


def test_torch_export_keeps_the_operators_for_any_number_of_images(operators):
    layers, example = Layers(), (torch.randn(2, 3, 9, 9), torch.arange(8.0))
    program = torch.export.export(
        layers, example, dynamic_shapes=({0: torch.export.Dim("images", max=100)}, None)
    )
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {
        "pass_transfer.global_topk_mask.default",
        "pass_transfer.masked_conv2d.default",
        "pass_transfer.masked_conv_norm_act.default",
    } <= names
    for images in (2, 5):
        given_ = torch.randn(images, 3, 9, 9), example[1]
        torch.testing.assert_close(program.module()(*given_), layers(*given_))
