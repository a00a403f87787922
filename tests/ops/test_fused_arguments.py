"""What a fused layer refuses, and in which words."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pass_transfer import ops
from pass_transfer.errors import KernelError


def by_name(x, weight, bias=None, **more):
    """masked_conv_norm_act of arguments by the names that errors use; others as they are."""

    def part(kind, **names):
        return kind(**{field: more.pop(name) for field, name in names.items() if name in more})

    parts = {
        "inputs": part(ops.Inputs, dropped="dropped", mask="in_mask", order="in_order"),
        "outputs": part(ops.Outputs, order="out_order", kept="out_kept", count="out_count"),
        "window": part(ops.Window, **{n: n for n in ("stride", "padding", "dilation", "groups")}),
        "norm": part(ops.Norm, weight="norm_weight", bias="norm_bias", eps="eps"),
        "epilogue": part(
            ops.Epilogue, **{n: n for n in ("residual", "residual_dropped", "relu", "pool")}
        ),
    }
    assert not more
    return ops.masked_conv_norm_act(x, weight, bias, **parts)


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
        torch.zeros(3, 3, 3, 3),
        torch.zeros(0, 4, 3, 3),
        torch.zeros(3, 4, 3, 3).double(),
        torch.zeros(3, 4, 9, 9),
        torch.zeros(3, 4),
        torch.zeros(3, 4, 3, 3, requires_grad=True),
    ],
    "in_mask": [torch.ones(3), torch.ones(5)],
    "eps": [0.0, -1.0, float("nan"), "small", None],
    "dropped": [
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
    "pool": [2, None, (2, 2), (0, 1, 0), (16, 1, 0), (3, 0, 1), (3, 1, 2), (3, 1, -1), (9, 1, 0)],
    "norm_weight": [torch.ones(2), None],
    "norm_bias": [torch.ones(2), None],
    "residual": [torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4, 4).double()],
    "residual_dropped": [torch.zeros(2, 2, 4, 4)],
    "out_order": [torch.tensor([0, 1, 3]), torch.tensor([0, 1, 0]), torch.tensor([[0]])],
    "out_kept": [0, -1, 4, 2.0],
    "out_count": [0, 4, "3"],
    "stride": [-1, 0, (1, -1), (1, 1, 1), 1.5, 2**70],
    "padding": [-1, (0, -1), 2**62],
    "dilation": [0, -2, 2**63 - 1],
    "groups": [0, 3, -1, 1.5, None, 2**40],
}
WORDS = {
    "x": "x|weight",
    "weight": "x|weight",
    "dropped": "dropped|in_mask",
    "out_count": "out_kept|out_count",
    "norm_weight": "norm_",
    "norm_bias": "norm_",
}


@settings(max_examples=200)
@given(st.data())
def test_what_does_not_fit_is_refused_with_the_arguments_name(implementation, data):
    name = data.draw(st.sampled_from(sorted(BAD)))
    value = data.draw(st.sampled_from(BAD[name]))
    good = {
        "x": torch.zeros(2, 4, 6, 6, requires_grad=True),
        "weight": torch.zeros(3, 4, 3, 3),
        "in_mask": torch.ones(4),
        "norm_weight": torch.ones(3),
        "norm_bias": torch.ones(3),
    }
    by_name(**good)
    with pytest.raises((KernelError, NotImplementedError), match=WORDS.get(name, name)):
        by_name(**good | {name: value})


def test_a_gradient_is_not_left_out_silently(implementation):
    x, weight = torch.randn(2, 4, 5, 5), torch.randn(3, 4, 3, 3, requires_grad=True)
    with pytest.raises(KernelError, match="weight requires a gradient"):
        ops.masked_conv_norm_act(x, weight)
    with torch.no_grad():
        assert ops.masked_conv_norm_act(x, weight)[0].shape == (2, 3, 3, 3)


@pytest.mark.parametrize(
    "given_, words",
    [
        ({"in_mask": None}, "dropped is given without in_mask"),
        ({"in_mask": torch.ones(5)}, "in_mask is not zero"),
        ({"in_order": torch.tensor([0, 1, 2, 9, 3])}, "in_order"),
        ({"in_order": torch.tensor([0, 1, 2, 2, 3])}, "in_order"),
    ],
)
def test_dropped_channels_are_checked_before_anything_is_computed(implementation, given_, words):
    good = {
        "x": torch.randn(2, 3, 5, 5),
        "weight": torch.randn(4, 5, 3, 3),
        "dropped": torch.randn(2, 2, 5, 5),
        "in_mask": torch.tensor([1.0, 1, 1, 0, 0]),
    }
    with pytest.raises(KernelError, match=words):
        by_name(**good | given_)
