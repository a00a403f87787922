"""A maximum pooling taken into a fused layer, in every implementation, against float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from pass_transfer import ops
from pass_transfer.errors import KernelError
from pass_transfer.masking.plan import Layer, plan_of


@settings(max_examples=60)
@given(
    pool=st.sampled_from([(3, 2, 1), (2, 2, 0), (3, 1, 1), (5, 3, 2)]),
    relu=st.booleans(),
    kept=st.integers(1, 6),
    rest=st.integers(0, 4),
    channels_last=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_it_pools_kept_and_dropped_channels(
    implementation, pool, relu, kept, rest, channels_last, seed
):
    draw = torch.Generator().manual_seed(seed)
    x, weight, scale, shift = (
        torch.randn(*s, generator=draw)
        for s in ((2, 3, 9, 8), (kept + rest, 3, 3, 3), (kept + rest,), (kept + rest,))
    )
    x = x.contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    ).requires_grad_()
    a, others = ops.masked_conv_norm_act(
        x,
        weight,
        outputs=ops.Outputs(kept=kept, count=kept + rest),
        window=ops.Window(padding=1),
        norm=ops.Norm(scale, shift),
        epilogue=ops.Epilogue(relu=relu, pool=pool),
    )
    true = x.detach().double().requires_grad_()
    y = functional.batch_norm(
        functional.conv2d(true, weight.double(), None, 1, 1),
        None,
        None,
        scale.double(),
        shift.double(),
        True,
    )
    y = functional.max_pool2d(y.relu() if relu else y, *pool)
    torch.testing.assert_close(a.detach().double(), y[:, :kept].detach(), rtol=1e-4, atol=1e-4)
    assert (others is None) == (rest == 0)
    if rest:
        torch.testing.assert_close(others.double(), y[:, kept:].detach(), rtol=1e-4, atol=1e-4)
        assert not others.requires_grad
    upstream = torch.randn(a.shape, generator=draw)
    a.backward(upstream)
    y[:, :kept].backward(upstream.double())
    torch.testing.assert_close(
        x.grad.double(), true.grad, rtol=1e-3, atol=1e-3 * true.grad.abs().max().item()
    )


@pytest.mark.parametrize(
    "pool", [(3, 2), (0, 1, 0), (3, 0, 1), (3, 2, 2), (3, 2, -1), (16, 2, 1), (3, 2.0, 1)]
)
def test_one_that_cannot_be_is_refused(implementation, pool):
    with pytest.raises(KernelError, match="pool"):
        x, weight = torch.zeros(1, 2, 8, 8), torch.zeros(2, 2, 1, 1)
        ops.masked_conv_norm_act(x, weight, epilogue=ops.Epilogue(pool=pool))


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_the_plan_takes_in_the_stems_pooling(networks, architecture):
    layers = [step for step in plan_of(*networks(architecture)).steps if isinstance(step, Layer)]
    assert [step.pool for step in layers] == [(3, 2, 1)] + [()] * (len(layers) - 1)
