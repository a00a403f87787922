"""The selection of the best single weights against a stable sort, on each implementation."""

import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pass_transfer import ops
from pass_transfer.errors import MaskError
from tests.ops.conftest import BUILT

pytestmark = pytest.mark.usefixtures("implementation")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
RESNET18 = 11_689_512


@st.composite
def problems(draw):
    """Scores of several shapes and one dtype, with many ties or none, and a k that they allow."""
    shapes = draw(st.lists(st.lists(st.integers(0, 6), max_size=4), min_size=1, max_size=5))
    source = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    dtype, levels = draw(st.sampled_from(DTYPES)), draw(st.integers(0, 5))
    parts = []
    for shape in shapes:
        values = torch.randn(shape, generator=source, dtype=torch.float64)
        values = values if levels == 0 else (values * levels).round() * 0.25
        parts.append((values * 10.0 ** draw(st.integers(-3, 3))).to(dtype))
    k = draw(st.integers(0, sum(part.numel() for part in parts)))
    return parts, k, draw(st.booleans())


def by_sorting(parts, k, magnitude):
    """All scores one after the other; a stable sort keeps the lower index among equals."""
    flat = torch.cat([part.flatten() for part in parts]).double()
    order = torch.sort(flat.abs() if magnitude else flat, descending=True, stable=True).indices
    kept = torch.zeros(len(flat), dtype=torch.bool)
    kept[order[:k]] = True
    masks = kept.split([part.numel() for part in parts])
    return [mask.view(part.shape) for mask, part in zip(masks, parts)]


def equal(masks, others):
    return all(torch.equal(one, other) for one, other in zip(masks, others, strict=True))


@settings(max_examples=150)
@given(problems())
def test_it_keeps_what_a_stable_sort_has_in_front(problem):
    parts, k, magnitude = problem
    masks = ops.global_topk_weights(parts, k, magnitude)
    assert sum(int(mask.sum()) for mask in masks) == k
    assert equal(masks, by_sorting(parts, k, magnitude))


@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_across_many_parts_go_to_the_lower_index(dtype):
    source = torch.Generator().manual_seed(0)
    parts = [torch.randint(-3, 4, (n,), generator=source).to(dtype) for n in (150_000, 7, 90_000)]
    for k in (1, 65_536, 120_000, 240_006):
        assert equal(ops.global_topk_weights(parts, k, True), by_sorting(parts, k, True))
        assert equal(ops.global_topk_weights(parts, k), by_sorting(parts, k, False))


def test_zero_has_one_place_whatever_its_sign():
    masks = ops.global_topk_weights([torch.tensor([-0.0, 0.0, -0.0, -1.0])], 2)
    assert masks[0].tolist() == [True, True, False, False]


def test_scores_in_another_layout_are_counted_in_their_own_order():
    weights = torch.ones(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    (mask,) = ops.global_topk_weights([weights], 5)
    assert mask.flatten().nonzero().flatten().tolist() == [0, 1, 2, 3, 4]


def test_the_number_of_threads_decides_nothing():
    scores = [torch.randn(300_000).mul(8).round() for _ in range(3)]
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(ops.global_topk_weights(scores, 400_000, True))
    finally:
        torch.set_num_threads(before)
    assert equal(found[0], found[1]) and equal(found[0], found[2])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("k", [0, 2])
def test_scores_that_are_no_numbers_are_refused(bad, k):
    with pytest.raises(MaskError, match="NaN or infinite"):
        ops.global_topk_weights([torch.ones(3), torch.tensor([1.0, bad])], k)


@pytest.mark.parametrize(
    "parts, k, said",
    [
        ([torch.ones(3)], 4, "cannot keep 4 of 3 weights"),
        ([torch.ones(3)], -1, "cannot keep -1 of 3 weights"),
        ([torch.ones(3)], 1.5, "k is 1.5"),
        ([torch.ones(3).int()], 1, "floating"),
        ([torch.ones(3), torch.ones(3).double()], 1, "one dtype"),
        ([torch.ones(3).to_sparse()], 1, "it must be dense"),
    ],
)
def test_what_does_not_go_together_is_refused_with_a_reason(parts, k, said):
    with pytest.raises(MaskError, match=said):
        ops.global_topk_weights(parts, k)


def test_it_takes_a_quarter_of_topk_at_most(implementation):
    if implementation == "reference":
        pytest.skip("plain torch is for machines without a compiler")
    scores = [torch.randn(RESNET18)]
    whole = _seconds(lambda: scores[0].abs().topk(RESNET18 // 10))
    assert _seconds(lambda: ops.global_topk_weights(scores, RESNET18 // 10, True)) <= whole / 4


def _seconds(run) -> float:
    """The shortest of three."""
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)


PEAK = """
import re, torch
from pass_transfer import ops
def field(name):
    status = open("/proc/self/status").read()
    return 1024 * int(re.search(name + r":\\s+(\\d+)", status)[1])
ops.global_topk_weights([torch.randn(100)], 10)
scores = [torch.empty(20_000_000).normal_() for _ in range(2)]
size = sum(4 * part.numel() for part in scores)
before = field("VmRSS") - size
open("/proc/self/clear_refs", "w").write("5")
masks = ops.global_topk_weights(scores, 4_000_000, True)
print((field("VmHWM") - before) / size)
"""


@pytest.mark.skipif(sys.platform != "linux" or not BUILT, reason="reads /proc, needs the kernel")
def test_scores_and_masks_together_take_little_more_than_the_scores():
    run = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True)
    if "clear_refs" in run.stderr:
        pytest.skip("the system does not let memory be measured")
    assert float(run.stdout) <= 1.3, run.stderr
