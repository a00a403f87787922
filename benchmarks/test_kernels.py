"""Each operator by pytest-benchmark, against the same in plain torch.

    python -m pytest benchmarks/test_kernels.py --benchmark-enable --benchmark-json=kernels.json

Timings are for reading; nothing here fails because it is slow. `PT_DEVICE=cuda` runs on a GPU,
`PT_PRECISION=bf16` in bfloat16, where the fused layer's weights stay in float32 as under autocast.
"""

from __future__ import annotations

import os

import pytest
import torch

from pass_transfer import ops

DEVICE = os.environ.get("PT_DEVICE", "cpu")
DTYPE = {"float32": torch.float32, "bf16": torch.bfloat16}[
    os.environ.get("PT_PRECISION", "float32")
]
DENSITY = 0.5
BATCH = 32 if DEVICE == "cpu" else 256
IMPLEMENTATIONS = {"compiled": (DEVICE,), "plain": ()}
# ResNet-18's 3 x 3 convolutions at 224 pixels: channels, side.
CONVOLUTIONS = ((64, 56), (128, 28), (256, 14), (512, 7))


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
def implementation(request, monkeypatch):
    """Compiled operators or their twins."""
    if request.param == "compiled" and DEVICE not in ops.kernels.chosen().devices:
        pytest.skip(f"no compiled operators for {DEVICE}: {ops.kernels.chosen().reason}")
    choice = ops.kernels.Kernels(IMPLEMENTATIONS[request.param], request.param)
    monkeypatch.setattr(ops.kernels, "chosen", lambda: choice)
    return request.param


def timed(benchmark, run) -> None:
    """One call, with the device's work in it."""

    def whole():
        run()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    whole()
    benchmark.pedantic(whole, rounds=10, iterations=1, warmup_rounds=1)


def half(width: int) -> torch.Tensor:
    mask = torch.zeros(width, device=DEVICE)
    mask[torch.randperm(width)[: round(width * DENSITY)]] = 1
    return mask


@pytest.mark.parametrize("n", [1000, 4800, 30000])
def test_global_topk(benchmark, implementation, n):
    scores, layers = torch.randn(n, device=DEVICE), 20
    offsets = torch.linspace(0, n, layers + 1).long().to(DEVICE)
    floors = torch.full((layers,), 3, device=DEVICE)
    timed(benchmark, lambda: ops.global_topk_mask(scores, offsets, n // 2, floors))


# The weights of ResNet-18, ResNet-50 and VGG-16 that may go, in tensors like theirs.
@pytest.mark.parametrize("density", [0.1, 0.5])
@pytest.mark.parametrize("millions", [11, 25, 138])
def test_global_topk_weights(benchmark, implementation, millions, density):
    each = 2_359_296  # 512 x 512 x 3 x 3
    sizes = [each] * (millions * 10**6 // each)
    scores = [torch.randn(size, device=DEVICE) for size in sizes]
    k = round(sum(sizes) * density)
    timed(benchmark, lambda: ops.global_topk_weights(scores, k, magnitude=True))


@pytest.mark.parametrize("density", [0.1, 0.5])
@pytest.mark.parametrize("millions", [11, 25])
def test_torch_topk(benchmark, millions, density):
    """What global_topk_weights takes the place of."""
    scores = torch.randn(millions * 10**6, device=DEVICE)
    timed(benchmark, lambda: scores.abs().topk(round(len(scores) * density), sorted=False))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("channels, side", CONVOLUTIONS)
def test_mask_channels(benchmark, implementation, channels, side, layout):
    x = image(channels, side, layout).requires_grad_()
    mask, upstream = half(channels).requires_grad_(), torch.randn_like(x)
    timed(benchmark, lambda: ops.mask_channels(x, mask).backward(upstream))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("gradient", ["exact", "kept"])
@pytest.mark.parametrize("channels, side", CONVOLUTIONS)
def test_masked_conv2d(benchmark, implementation, channels, side, gradient, layout):
    x = image(channels, side, layout).requires_grad_()
    weight = torch.randn(channels, channels, 3, 3, device=DEVICE, dtype=DTYPE)
    mask, support = half(channels).requires_grad_(), half(channels)
    masks, window = ops.Masks(mask, gradient=gradient, support=support), ops.Window(padding=1)
    upstream = torch.randn_like(x) * support[:, None, None]
    timed(
        benchmark,
        lambda: ops.masked_conv2d(x, weight, None, masks, window).backward(upstream),
    )


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("with_dropped", [True, False], ids=["exact", "kept"])
@pytest.mark.parametrize("channels, side", CONVOLUTIONS)
def test_masked_conv_norm_act(benchmark, implementation, channels, side, with_dropped, layout):
    kept, order = channels // 2, torch.randperm(channels, device=DEVICE)
    others = channels - kept if with_dropped else 0
    x = image(kept, side, layout).requires_grad_()
    dropped = image(others, side, layout) if with_dropped else None
    mask = torch.cat([torch.ones(kept), torch.zeros(others)]).to(DEVICE).requires_grad_()
    weight = torch.randn(channels, channels, 3, 3, device=DEVICE)
    ones = torch.ones(channels, device=DEVICE)
    upstream = torch.randn_like(x)

    def step():
        out, _ = ops.masked_conv_norm_act(
            x,
            weight,
            inputs=ops.Inputs(dropped, mask, order),
            outputs=ops.Outputs(order, kept, kept + others),
            window=ops.Window(padding=1),
            norm=ops.Norm(ones, ones),
        )
        out.backward(upstream)

    timed(benchmark, step)


def image(channels: int, side: int, layout: str) -> torch.Tensor:
    return torch.randn(BATCH, channels, side, side, device=DEVICE, dtype=DTYPE).contiguous(
        memory_format=torch.channels_last if layout == "channels_last" else torch.contiguous_format
    )
