"""The CUDA kernels against the same operators on the CPU in float64.

They are skipped where there is no GPU, or no CUDA build.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pass_transfer import ops
from pass_transfer.budgets.ranking import top_share
from pass_transfer.masking import capacity_for, masked_forward
from pass_transfer.scoring.hypernet import Hypernet, HypernetConfig

if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)
if "cuda" not in ops.kernels.chosen().devices:
    pytest.skip(f"no CUDA kernels: {ops.kernels.chosen().reason}", allow_module_level=True)

GPU = "cuda"
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture(autouse=True)
def in_full_precision(monkeypatch):
    """Convolutions and matrix products in float32 itself, not in tf32."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def near(value, reference, share):
    assert value.shape == reference.shape
    if reference.numel():
        assert (value.detach().cpu().double() - reference.double()).abs().max() <= share * max(
            reference.abs().max().item(), 1e-3
        )


@settings(max_examples=100)
@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=60),
    st.integers(1, 1000),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.integers(0, 2**31),
    st.data(),
)
def test_topk_is_the_cpus(widths, levels, dtype, seed, data):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-levels, levels + 1, (sum(widths),), generator=generator).to(dtype)
    offsets = torch.tensor([0, *torch.tensor(widths).cumsum(0).tolist()])
    floors = torch.tensor([data.draw(st.integers(0, min(w, 5))) for w in widths])
    k = data.draw(st.integers(int(floors.sum()), len(scores)))
    expected = ops.reference.global_topk_mask(scores, offsets, k, floors)
    found = ops.global_topk_mask(scores.to(GPU), offsets.to(GPU), k, floors.to(GPU))
    for ours, theirs in zip(found, expected):
        assert torch.equal(ours.cpu(), theirs)


@pytest.mark.parametrize("n", [1, 33, 30_000, 100_000])
def test_topk_of_many_scores_with_ties(n):
    scores, floors = torch.randint(0, 50, (n,)).float(), torch.tensor([1])
    for k in (1, n // 2 or 1, n):
        found = ops.global_topk_mask(
            scores.to(GPU), torch.tensor([0, n], device=GPU), k, floors.to(GPU)
        )
        assert torch.equal(
            found.mask.cpu(),
            ops.reference.global_topk_mask(scores, torch.tensor([0, n]), k, floors)[0],
        )


def test_topk_is_one_launch():
    scores, offsets, floors = (
        torch.randn(30_000, device=GPU),
        torch.arange(0, 30_001, 1000, device=GPU),
        torch.full((30,), 2, device=GPU),
    )
    ops.global_topk_mask(scores, offsets, 15_000, floors)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        ops.global_topk_mask(scores, offsets, 15_000, floors)
    launches = [
        e.name
        for e in profile.events()
        if e.device_type == torch.autograd.DeviceType.CUDA
        and "emcpy" not in e.name
        and "emset" not in e.name
    ]
    assert len(launches) == 1, launches


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_no_number_are_refused(bad):
    with pytest.raises(ValueError, match="NaN or infinite"):
        ops.global_topk_mask(
            torch.tensor([1.0, bad], device=GPU),
            torch.tensor([0, 2], device=GPU),
            1,
            torch.tensor([0], device=GPU),
        )


@pytest.mark.parametrize(
    "offsets, k, floors",
    [
        ([1, 2, 4], 2, [0, 0]),
        ([0, 2, 3], 2, [0, 0]),
        ([0, 5, 4], 2, [0, 0]),
        ([0, -1, 4], 2, [0, 0]),
        ([0, 2, 4], 2, [3, 0]),
        ([0, 2, 4], 2, [-1, 0]),
        ([0, 2, 4], 2, [2, 1]),
        ([0, 2, 4], 5, [0, 0]),
        ([0, 2, 4], -1, [0, 0]),
    ],
)
def test_offsets_and_floors_that_do_not_fit_are_refused(offsets, k, floors):
    with pytest.raises(ValueError, match=f"cannot keep {k} of 4"):
        ops.global_topk_mask(
            torch.arange(4.0, device=GPU),
            torch.tensor(offsets, device=GPU),
            k,
            torch.tensor(floors, device=GPU),
        )
    assert (
        int(
            ops.global_topk_mask(
                torch.arange(4.0, device=GPU),
                torch.tensor([0, 2, 4], device=GPU),
                2,
                torch.tensor([1, 1], device=GPU),
            ).mask.sum()
        )
        == 2
    )


@pytest.mark.parametrize(
    "dtype, share",
    [(torch.float32, 2e-5), (torch.float64, 1e-10), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)],
)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "groups, gradient", [(1, "exact"), (1, "kept"), (1, "margin"), (4, "exact")]
)
def test_masked_convolution_is_the_float64_one(dtype, share, layout, groups, gradient):
    leaves = [
        torch.randn(3, 16, 9, 8).contiguous(memory_format=layout),
        torch.randn(24, 16 // groups, 3, 3),
        torch.randn(24),
        (torch.rand(16) < 0.5).float(),
        (torch.rand(24) < 0.5).float(),
    ]
    # Masks are not rounded.
    types = [dtype] * 3 + [torch.float64 if dtype is torch.float64 else torch.float32] * 2
    gpu = [t.to(GPU, kind).requires_grad_() for t, kind in zip(leaves, types)]
    cpu = [t.detach().cpu().double().requires_grad_() for t in gpu]
    upstream = torch.randn(3, 24, 5, 4).to(dtype)
    window, ys = ops.Window(stride=2, padding=1, groups=groups), []
    for tensors, gradient_in in ((gpu, upstream.to(GPU)), (cpu, upstream.double())):
        x, weight, bias, in_mask, out_mask = tensors
        masks = ops.Masks(in_mask, out_mask, gradient)
        ys.append(ops.masked_conv2d(x, weight, bias, masks, window))
        ys[-1].backward(gradient_in)
    near(ys[0], ys[1].detach(), share)
    for ours, theirs in zip(gpu, cpu):
        near(ours.grad, theirs.grad, share)


@pytest.mark.parametrize(
    "dtype, share", [(torch.float32, 3e-5), (torch.float64, 1e-10), (torch.bfloat16, 6e-2)]
)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "normed, added, relu, dropped",
    [
        (True, False, True, True),
        (True, True, True, True),
        (True, False, False, False),
        (False, False, True, True),
        (False, True, False, False),
    ],
)
def test_a_fused_layer_is_the_float64_one(dtype, share, layout, normed, added, relu, dropped):
    def image(channels):
        return torch.randn(4, channels, 12, 11).contiguous(memory_format=layout).to(dtype)

    sums = torch.float64 if dtype is torch.float64 else torch.float32
    others = torch.zeros(6 if dropped else 0)
    mask = torch.cat([(torch.rand(10) < 0.8).float(), others]).to(sums)
    learning = image(10), mask, image(7)
    fixed = {
        "weight": torch.randn(20, 16, 3, 3).to(dtype),
        "dropped": image(6) if dropped else None,
        "in_order": torch.randperm(16),
        "out_order": torch.randperm(20),
        "scale": torch.rand(20) + 0.5 if normed else None,
        "shift": torch.randn(20) if normed else None,
        "residual_dropped": image(9) if added and dropped else None,
        "upstream": image(7),
    }

    def run(there):
        x, mask, residual = (there(t).requires_grad_() for t in learning)
        g = {name: there(t) for name, t in fixed.items()}
        residuals = (residual, g["residual_dropped"]) if added else (None, None)
        kept, rest = ops.masked_conv_norm_act(
            x,
            g["weight"],
            inputs=ops.Inputs(g["dropped"], mask, g["in_order"]),
            outputs=ops.Outputs(g["out_order"], 7, 16 if dropped else 7),
            window=ops.Window(padding=1),
            norm=ops.Norm(g["scale"], g["shift"]),
            epilogue=ops.Epilogue(*residuals, relu),
        )
        kept.backward(g["upstream"])
        return [kept.detach(), rest, x.grad, mask.grad, residual.grad]

    def on_the_gpu(t):
        return None if t is None else t.to(GPU)

    def in_float64(t):
        return t.double() if t is not None and t.is_floating_point() else t

    for ours, theirs in zip(run(on_the_gpu), run(in_float64)):
        if theirs is not None:
            near(ours, theirs, share)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "channels, kernel, padding, sides",
    [
        (3, 7, 3, (32, 34)),
        (3, 7, 3, (33, 31)),
        (3, 3, 1, (11, 14)),
        (1, 5, 2, (13, 13)),
        (4, 4, 1, (12, 10)),
        (2, 3, 0, (9, 9)),
        (3, 2, 0, (9, 8)),
    ],
)
def test_space_to_depth_leaves_no_trace_in_a_stem(dtype, layout, channels, kernel, padding, sides):
    x, weight = (
        torch.randn(2, channels, *sides, device=GPU).to(dtype).contiguous(memory_format=layout),
        torch.randn(16, channels, kernel, kernel, device=GPU).to(dtype),
    )
    x.requires_grad_()
    window, epilogue = ops.Window(2, padding), ops.Epilogue(relu=False)
    y, _ = ops.masked_conv_norm_act(x, weight, window=window, epilogue=epilogue)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    true = x.detach().cpu().double().requires_grad_()
    expected = torch.nn.functional.conv2d(true, weight.cpu().double(), None, 2, padding)
    expected.backward(upstream.cpu().double())
    near(y, expected.detach(), 1e-2)
    near(x.grad, true.grad, 1e-2)


@pytest.mark.parametrize("dtype, share", [(torch.float32, 3e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "pool, outs, kept",
    [
        ((3, 2, 1), 16, 8),
        ((3, 2, 1), 16, 16),
        ((2, 2, 0), 11, 5),
        ((3, 1, 1), 8, 8),
        ((5, 3, 2), 9, 9),
    ],
)
def test_pooling_in_the_layer_is_the_float64_one(dtype, share, layout, pool, outs, kept):
    x, weight, scale, shift = (
        torch.randn(3, 4, 12, 13),
        torch.randn(outs, 4, 3, 3),
        torch.randn(outs),
        torch.randn(outs),
    )
    upstream, order, found = (
        torch.randn(3, kept, *[(s + 2 * pool[2] - pool[0]) // pool[1] + 1 for s in (12, 13)]),
        torch.randperm(outs),
        [],
    )
    for device, kind in ((GPU, dtype), ("cpu", torch.float64)):
        image, mask = (
            x.to(device, kind).contiguous(memory_format=layout).requires_grad_(),
            torch.ones(4, device=device, dtype=kind).requires_grad_(),
        )
        a, rest = ops.masked_conv_norm_act(
            image,
            weight.to(device, kind),
            inputs=ops.Inputs(mask=mask),
            outputs=ops.Outputs(order.to(device), kept, outs),
            window=ops.Window(padding=1),
            norm=ops.Norm(scale.to(device, kind), shift.to(device, kind)),
            epilogue=ops.Epilogue(pool=pool),
        )
        a.backward(upstream.to(device, kind))
        found.append([a.detach(), rest, image.grad, mask.grad])
    for ours, theirs in zip(*found):
        if theirs is not None:
            near(ours, theirs, share)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pooling_in_the_layer_is_that_behind_it_in_half_precision(layout):
    x, weight, scale, shift = (
        torch.randn(*s, device=GPU) for s in ((3, 3, 32, 34), (24, 3, 7, 7), (24,), (24,))
    )
    found = []
    for fused in (True, False):
        image = x.to(torch.bfloat16).contiguous(memory_format=layout).requires_grad_()
        a, rest = ops.masked_conv_norm_act(
            image,
            weight,
            outputs=ops.Outputs(kept=16, count=24),
            window=ops.Window(2, 3),
            norm=ops.Norm(scale, shift),
            epilogue=ops.Epilogue(pool=(3, 2, 1) if fused else ()),
        )
        a, rest = (
            (a, rest) if fused else (torch.nn.functional.max_pool2d(t, 3, 2, 1) for t in (a, rest))
        )
        a.backward(torch.linspace(-1, 1, a.numel(), device=GPU).view_as(a).to(a.dtype))
        found.append((a.detach(), rest, image.grad))
    for ours, theirs in zip(*found):
        near(ours, theirs.cpu(), 1e-2)


@pytest.mark.parametrize("dtype, share", [(torch.float32, 2e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize(
    "shape", [(3, 7), (2, 33, 5, 4), (4, 64, 28, 28), (1, 1, 1, 1), (0, 5, 3, 3)]
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_mask_and_reduce_gives_both_gradients(dtype, share, shape, channels_last):
    x = torch.randn(*shape, device=GPU).to(dtype)
    if channels_last and x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    x, mask = x.requires_grad_(), (torch.rand(shape[1], device=GPU) < 0.5).float().requires_grad_()
    upstream = torch.randn_like(x)
    y = ops.mask_channels(x, mask)
    y.backward(upstream)
    view = (1, -1, *[1] * (x.ndim - 2))
    assert torch.equal(y, x * mask.to(dtype).view(view)) and torch.equal(
        x.grad, upstream * mask.to(dtype).view(view)
    )
    near(
        mask.grad,
        (x.detach().double() * upstream.double()).flatten(2).sum((0, 2)).cpu()
        if x.ndim > 2
        else (x.detach().double() * upstream.double()).sum(0).cpu(),
        share,
    )


def capture(step):
    """A CUDA graph of a step, and the tensors that its replay fills."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    return graph, captured


def search_step(networks, gradient):
    """A step that keeps half of ResNet-18's channels by their scores, and the scores.

    With them comes the capacity that it needs in a graph.
    """
    network, groups = networks("resnet18")
    network = network.to(GPU).requires_grad_(False)
    offsets, floors = groups.offsets.to(GPU), torch.ones(len(groups), dtype=torch.long, device=GPU)
    widths = {n: g.width for n, g in groups.items()}
    scores, x = (
        torch.randn(groups.total, device=GPU).requires_grad_(),
        torch.randn(8, 3, 32, 32, device=GPU).requires_grad_(),
    )

    def step(**fixed):
        top = ops.global_topk_mask(scores, offsets, groups.total // 2, floors)
        if fixed:
            fixed["orders"] = groups.split(top.order)
        logits = masked_forward(network, groups, groups.split(top.mask), x, gradient, **fixed)
        return logits, *torch.autograd.grad(logits.square().mean(), (scores, x))

    return step, scores, capacity_for({n: round(0.7 * w) for n, w in widths.items()}, widths)


def shuffle(scores):
    with torch.no_grad():
        scores.copy_(
            torch.randn_like(scores) * 0.1
            + torch.linspace(0, 1, len(scores), device=GPU)[torch.randperm(len(scores), device=GPU)]
        )


@pytest.mark.parametrize("gradient", ["exact", "kept"])
def test_a_capacity_for_more_channels_changes_nothing(networks, gradient):
    step, scores, capacity = search_step(networks, gradient)
    shuffle(scores)
    for ours, theirs in zip(step(capacity=capacity), step()):
        near(ours, theirs.detach().cpu(), 1e-3)


@pytest.mark.parametrize("gradient", ["exact", "kept"])
def test_a_step_in_a_graph_follows_the_scores(networks, gradient):
    step, scores, capacity = search_step(networks, gradient)
    graph, captured = capture(lambda: step(capacity=capacity))
    for seed in (1, 2):
        torch.manual_seed(seed)
        shuffle(scores)
        graph.replay()
        for ours, theirs in zip(captured, step()):
            near(ours, theirs.detach().cpu(), 1e-3)


def test_masks_are_made_from_a_prompt_inside_the_graph(networks):
    network, groups = networks("resnet18")
    hypernet = Hypernet(HypernetConfig(), network, groups).to(GPU).requires_grad_(False)
    network = network.to(GPU).requires_grad_(False)
    widths = {n: g.width for n, g in groups.items()}
    frame, x = (
        (0.1 * torch.randn(3, 64, 64, device=GPU)).requires_grad_(),
        torch.randn(8, 3, 32, 32, device=GPU),
    )

    def step(**fixed):
        top = top_share(hypernet(frame), groups, 0.5)
        if fixed:
            fixed["orders"] = groups.split(top.order)
        logits = masked_forward(network, groups, groups.split(top.mask), x, **fixed)
        return top.mask.detach(), logits, *torch.autograd.grad(logits.square().mean(), frame)

    graph, captured = capture(lambda: step(capacity=widths))
    masks = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with torch.no_grad():
            frame.copy_(0.1 * torch.randn_like(frame))
        graph.replay()
        for ours, theirs in zip(captured, step()):
            near(ours, theirs.detach().cpu(), 1e-3)
        masks.append(captured[0].clone())
    assert not torch.equal(*masks)
