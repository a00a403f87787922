"""The compiled operators on the CPU against float64 references; skipped where they are not built."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional

from pass_transfer import ops

pytest.importorskip("pass_transfer._C", reason="the extension is not built", exc_type=ImportError)

kernels = torch.ops.pass_transfer


@st.composite
def convolutions(draw):
    """A small masked convolution: shapes, window, groups, layout, masks, and what its gradient comes from."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    groups = draw(st.sampled_from([1, 1, 1, 2, 4]))
    ins, outs = (groups * draw(st.integers(1, 12)) for _ in range(2))
    kernel, stride, dilation = (draw(st.integers(1, n)) for n in (3, 2, 2))
    padding, side = draw(st.integers(0, 2)), draw(st.integers(5, 9))
    x = torch.randn(draw(st.integers(0, 3)), ins, side, side + 1, generator=generator)
    if draw(st.booleans()):
        x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(outs, ins // groups, kernel, kernel, generator=generator)

    def mask(width, share):
        return (torch.rand(width, generator=generator) < share).float()

    share = draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    bias = torch.randn(outs, generator=generator) if draw(st.booleans()) else None
    out_mask = mask(outs, 0.6) if draw(st.booleans()) else None
    support = mask(outs, 0.6) if out_mask is None and draw(st.booleans()) else None
    return x, weight, bias, mask(ins, share), out_mask, [stride] * 2, [padding] * 2, [dilation] * 2, groups, support, generator


def near(value, reference):
    """Equal to 2e-5 of the reference's largest element."""
    assert value.shape == reference.shape
    if reference.numel():
        assert (value.double() - reference).abs().max() <= 2e-5 * max(reference.abs().max().item(), 1e-6)


@settings(max_examples=150)
@given(convolutions(), st.sampled_from(["exact", "kept"]))
def test_masked_convolution_and_all_its_gradients_are_the_references(problem, gradient):
    x, weight, bias, in_mask, out_mask, stride, padding, dilation, groups, support, generator = problem
    y, before = kernels.masked_conv2d(x, weight, bias, in_mask, out_mask, stride, padding, dilation, groups, gradient, support)
    leaves = [None if t is None else t.double().requires_grad_() for t in (x, weight, bias, in_mask, out_mask)]
    rx, rw, rb, rin, rout = leaves
    inside = rin if gradient == "exact" else rin.detach() * rin
    reference = functional.conv2d(rx * inside[:, None, None], rw, rb, stride, padding, dilation, groups)
    if rout is not None:
        reference = reference * (rout if gradient == "exact" else rout.detach() * rout)[:, None, None]
    near(y, reference)
    upstream = torch.randn(y.shape, generator=generator) * (1 if support is None else support[:, None, None])
    reference.backward(upstream.double())
    saved = before if gradient == "exact" else y
    found = kernels.masked_conv2d_backward(upstream, x, weight, in_mask, out_mask, saved, stride, padding, dilation, groups, gradient, support, [True] * 5)
    for value, leaf in zip(found, leaves):
        if leaf is not None:
            near(value, leaf.grad)


@given(st.integers(0, 3), st.integers(1, 40), st.integers(1, 6), st.booleans(), st.sampled_from([torch.float32, torch.bfloat16]), st.integers(0, 999))
def test_mask_and_reduce_gives_both_gradients(batch, channels, side, channels_last, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    x, grad = (torch.randn(batch, channels, side, side, generator=generator).to(dtype) for _ in range(2))
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    mask = (torch.rand(channels, generator=generator) < 0.5).float()
    assert torch.equal(kernels.mask_channels(x, mask), x * mask.to(dtype)[:, None, None])
    dx, dmask = kernels.mask_channels_backward(grad, x, mask)
    assert torch.equal(dx, grad * mask.to(dtype)[:, None, None])
    near(dmask, (x.double() * grad.double()).sum((0, 2, 3)))


def test_sums_do_not_depend_on_the_number_of_threads():
    x, grad = torch.randn(8, 64, 28, 28), torch.randn(8, 64, 28, 28)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for layout in (torch.contiguous_format, torch.channels_last):
                found.append(kernels.mask_channels_backward(grad, x.contiguous(memory_format=layout), torch.ones(64))[1])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(found, found[2:]))


@settings(max_examples=60)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 20), st.integers(0, 2**31), st.data())
def test_topk_is_the_references_with_lists_of_what_is_kept(widths, levels, seed, data):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-levels, levels + 1, (sum(widths),), generator=generator).float()
    offsets = torch.tensor([0, *torch.tensor(widths).cumsum(0).tolist()])
    floors = torch.tensor([data.draw(st.integers(0, w)) for w in widths])
    k = data.draw(st.integers(int(floors.sum()), len(scores)))
    mask, threshold, kept, order = kernels.global_topk_mask(scores, offsets, k, floors)
    for value, expected in zip((mask, threshold, kept), ops.global_topk_mask(scores, offsets, k, floors)):
        assert torch.equal(value, expected)
    for start, end, count in zip(offsets, offsets[1:], kept):
        part = order[start:end]
        assert torch.equal(part[:count], mask[start:end].nonzero().flatten()) and sorted(part.tolist()) == list(range(end - start))


@pytest.mark.parametrize("change, word", [
    ({"x": torch.zeros(2, 4, 5)}, "x has shape"), ({"weight": torch.zeros(3, 5, 3, 3)}, "do not fit"), ({"weight": torch.zeros(3, 4, 3, 3).double()}, "one floating dtype"),
    ({"in_mask": torch.ones(3)}, "in_mask has shape"), ({"in_mask": torch.full((4,), 0.5)}, "in_mask holds other values"), ({"in_mask": torch.ones(4, dtype=torch.long)}, "in_mask is Long"),
    ({"out_mask": torch.ones(4)}, "out_mask has shape"), ({"stride": [-1, 1]}, "stride"), ({"padding": [0, -1]}, "padding"), ({"dilation": [0, 1]}, "dilation"),
    ({"groups": 3}, "do not fit"), ({"gradient": "some"}, "choose exact or kept"), ({"bias": torch.zeros(2)}, "bias has shape"), ({"weight": torch.zeros(3, 4, 9, 9)}, "larger than")])
def test_bad_input_is_refused_by_name(change, word):
    given = {"x": torch.zeros(2, 4, 5, 5), "weight": torch.zeros(3, 4, 3, 3), "bias": None, "in_mask": torch.ones(4), "out_mask": None, "stride": [1, 1],
             "padding": [0, 0], "dilation": [1, 1], "groups": 1, "gradient": "exact", "support": None}
    with pytest.raises((ValueError, TypeError), match=word):
        kernels.masked_conv2d(*(given | change).values())
