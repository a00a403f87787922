"""The compiled operators as torch sees them: shapes without data, gradients, torch.compile and torch.export."""

from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pass_transfer import ops

OPERATORS = (
    "global_topk_mask",
    "mask_channels",
    "mask_channels_backward",
    "masked_conv2d",
    "masked_conv2d_backward",
    "masked_linear",
    "masked_conv_norm_act",
    "masked_conv_norm_act_backward",
)
ones, zeros = [1, 1], [0, 0]


def leaf(*shape, **kwargs):
    return torch.randn(*shape, **kwargs).requires_grad_()


def samples():
    """(operator, arguments) for every operator; shapes, layouts and options that take different ways through it."""
    scores, offsets, floors = leaf(30), torch.tensor([0, 10, 30]), torch.tensor([1, 2])
    x, mask = leaf(2, 6, 5, 5), (torch.arange(6) % 2).float().requires_grad_()
    rows = torch.randn(2, 6, 5, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight, bias, out_mask = (
        leaf(4, 6, 3, 3),
        leaf(4),
        torch.tensor([1.0, 0, 1, 1]).requires_grad_(),
    )
    yield "global_topk_mask", (scores, offsets, 12, floors)
    for image in (x, rows):
        yield "mask_channels", (image, mask)
        yield "mask_channels_backward", (torch.randn_like(image), image.detach(), mask.detach())
        for gradient in ops.GRADIENTS:
            yield (
                "masked_conv2d",
                (
                    image,
                    weight,
                    bias,
                    mask,
                    out_mask,
                    [2, 2],
                    ones,
                    ones,
                    1,
                    gradient,
                    None,
                    None,
                    None,
                ),
            )
        yield (
            "masked_conv2d",
            (
                image,
                weight.detach(),
                None,
                mask,
                None,
                ones,
                ones,
                ones,
                1,
                "exact",
                out_mask.detach(),
                None,
                None,
            ),
        )
        yield (
            "masked_conv2d_backward",
            (
                torch.randn(2, 4, 5, 5).contiguous(
                    memory_format=torch.channels_last if image is rows else torch.contiguous_format
                ),
                image.detach(),
                weight.detach(),
                mask.detach(),
                None,
                image.detach().new_empty(0),
                ones,
                ones,
                ones,
                1,
                "exact",
                None,
                None,
                None,
                [True, True, True, True, False],
            ),
        )
        for shadow, norm, relu in ((None, False, False), (True, True, True), (True, False, True)):
            listening = (
                image.detach()[:, :2].clone(memory_format=torch.preserve_format) if shadow else None
            )
            seen = torch.cat([mask.detach(), torch.zeros(2)]).requires_grad_() if shadow else mask
            kernel, order = leaf(4, 8, 3, 3).detach(), torch.tensor([2, 0, 1, 3])
            forward = (
                image,
                listening,
                seen,
                torch.arange(8),
                kernel,
                None,
                torch.rand(4) if norm else None,
                torch.rand(4) if norm else None,
                1e-5,
                None,
                None,
                order,
                2,
                4 if shadow else 2,
                relu,
                ones,
                ones,
                ones,
                [],
            )
            yield "masked_conv_norm_act", forward
            with torch.no_grad():
                a, _, *rest = torch.ops.pass_transfer.masked_conv_norm_act(*forward)
            yield (
                "masked_conv_norm_act_backward",
                (
                    torch.randn_like(a),
                    image.detach(),
                    listening,
                    seen.detach(),
                    torch.arange(8),
                    kernel,
                    a,
                    *rest,
                    False,
                    order,
                    relu,
                    ones,
                    ones,
                    ones,
                    [],
                    [True, True, shadow],
                ),
            )
    yield (
        "masked_linear",
        (leaf(3, 6), leaf(4, 6), leaf(4), mask, out_mask, "exact", None, None, None),
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
@pytest.mark.parametrize("number", range(28))
def test_opcheck(operators, number, device):
    cases = list(samples())
    assert len(cases) == 28
    name, arguments = cases[number]
    there = [
        a.detach().to(device).requires_grad_(a.requires_grad) if isinstance(a, torch.Tensor) else a
        for a in arguments
    ]
    torch.library.opcheck(getattr(operators, name).default, tuple(there))


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
    arguments = list(
        data.draw(st.sampled_from([given_ for name, given_ in samples() if name == operator]))
    )
    for place in data.draw(
        st.lists(st.integers(0, len(arguments) - 1), min_size=1, max_size=2, unique=True)
    ):
        arguments[place] = data.draw(unlike(arguments[place]))
    with (
        suppress(ValueError, TypeError, RuntimeError),
        torch.no_grad(),
    ):  # RuntimeError: the dispatcher's, or no memory
        getattr(operators, operator)(*arguments)


@pytest.mark.parametrize("number", range(28))
def test_arguments_may_lie_anywhere_in_memory(operators, number):
    name, arguments = list(samples())[number]
    arguments = [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments]
    apart = [
        torch.stack([a, a], -1)[..., 0] if isinstance(a, torch.Tensor) else a for a in arguments
    ]
    assert all(
        not a.is_contiguous() for a in apart if isinstance(a, torch.Tensor) and a.numel() > 1
    )
    for one, other in zip(
        *(
            [y] if isinstance(y, torch.Tensor) else y
            for y in (getattr(operators, name)(*arguments), getattr(operators, name)(*apart))
        )
    ):
        torch.testing.assert_close(one, other)


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
        y = ops.masked_conv2d(x, self.conv.weight, self.conv.bias, None, mask)
        z, _ = ops.masked_conv_norm_act(y, torch.ones(8, 8, 1, 1), in_mask=mask)
        return ops.masked_linear(
            ops.mask_channels(z, mask).mean((2, 3)), self.linear.weight, self.linear.bias, mask
        )


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
