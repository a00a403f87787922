"""The selection of the best channels against brute force, on each implementation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pass_transfer import ops
from pass_transfer.errors import MaskError

pytestmark = pytest.mark.usefixtures("implementation")


@st.composite
def problems(draw):
    """Scores in layers with many ties, floors that fit, and every k that they allow."""
    widths = draw(st.lists(st.integers(1, 40), min_size=1, max_size=50))
    levels = draw(st.integers(1, 30))
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-levels, levels + 1, (sum(widths),), generator=generator).double() / 4
    floors = [draw(st.integers(0, w)) for w in widths]
    return scores, torch.tensor([0, *torch.tensor(widths).cumsum(0).tolist()]), torch.tensor(floors)


def brute_force(scores: list[float], offsets: list[int], k: int, floors: list[int]) -> list[bool]:
    """One channel after the other: each layer's floor, then the best of what is left.

    Among equals it is the first.
    """
    kept = [False] * len(scores)

    def take_best(first: int, last: int) -> None:
        best = None
        for i in range(first, last):
            if not kept[i] and (best is None or scores[i] > scores[best]):
                best = i
        kept[best] = True

    for layer, floor in enumerate(floors):
        for _ in range(floor):
            take_best(offsets[layer], offsets[layer + 1])
    while sum(kept) < k:
        take_best(0, len(scores))
    return kept


@settings(max_examples=60)
@given(problems(), st.data())
def test_topk_mask_is_what_brute_force_selects(problem, data):
    scores, offsets, floors = problem
    k = data.draw(st.integers(int(floors.sum()), len(scores)))
    mask, threshold, kept, order = ops.global_topk_mask(scores, offsets, k, floors)
    expected = brute_force(scores.tolist(), offsets.tolist(), k, floors.tolist())
    assert mask.bool().tolist() == expected
    assert kept.tolist() == [
        sum(expected[a:b]) for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist())
    ]
    assert k == 0 or threshold.item() == min(s for s, e in zip(scores.tolist(), expected) if e)


@given(problems(), st.data())
def test_exactly_k_ones_and_every_floor_is_respected(problem, data):
    scores, offsets, floors = problem
    k = data.draw(st.integers(int(floors.sum()), len(scores)))
    mask, _, kept, _ = ops.global_topk_mask(scores, offsets, k, floors)
    assert set(mask.tolist()) <= {0.0, 1.0}
    assert int(mask.sum()) == k
    assert (kept >= floors).all()


@settings(max_examples=25)
@given(problems())
def test_the_first_k_of_the_ranking_are_the_mask_of_every_k(problem):
    scores, offsets, floors = problem
    order = ops.ranking(scores, offsets, floors)
    assert sorted(order.tolist()) == list(range(len(scores)))
    for k in range(int(floors.sum()), len(scores) + 1):
        mask, *_ = ops.global_topk_mask(scores, offsets, k, floors)
        assert set(order[:k].tolist()) == set(mask.nonzero().flatten().tolist())


def test_two_thousand_scores_of_ten_values_match_brute_force():
    scores = torch.randint(0, 10, (2000,)).float()
    offsets, floors = torch.tensor([0, 300, 1100, 2000]), torch.tensor([30, 300, 90])
    mask, *_ = ops.global_topk_mask(scores, offsets, 900, floors)
    assert mask.bool().tolist() == brute_force(
        scores.tolist(), offsets.tolist(), 900, floors.tolist()
    )


def test_ties_go_to_the_lower_index():
    mask, *_ = ops.global_topk_mask(
        torch.tensor([1.0, 2.0, 1.0, 1.0, 2.0]), torch.tensor([0, 5]), 3, torch.tensor([0])
    )
    assert mask.tolist() == [1, 1, 0, 0, 1]


def test_negative_zero_and_zero_are_the_same_score():
    mask, *_ = ops.global_topk_mask(
        torch.tensor([-0.0, 0.0, -0.0]), torch.tensor([0, 3]), 1, torch.tensor([0])
    )
    assert mask.tolist() == [1, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_gradient_passes_straight_through_to_kept_and_dropped(dtype):
    scores = torch.randn(50).to(dtype).requires_grad_()
    mask, threshold, kept, order = ops.global_topk_mask(
        scores, torch.tensor([0, 20, 50]), 15, torch.tensor([2, 3])
    )
    upstream = torch.randn(50).to(dtype)
    mask.backward(upstream)
    assert mask.dtype == dtype
    assert torch.equal(scores.grad, upstream)
    assert not threshold.requires_grad and not kept.requires_grad


def test_the_same_scores_give_the_same_mask_with_any_number_of_threads():
    scores = torch.randint(0, 5, (2000,)).float()
    arguments = torch.tensor([0, 1000, 2000]), 700, torch.tensor([100, 100])
    before = torch.get_num_threads()
    first, *_ = ops.global_topk_mask(scores, *arguments)
    torch.set_num_threads(2)
    try:
        second, *_ = ops.global_topk_mask(scores, *arguments)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(first, second)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_no_number_are_refused(bad):
    with pytest.raises(MaskError, match="NaN or infinite"):
        ops.global_topk_mask(
            torch.tensor([1.0, bad, 2.0]), torch.tensor([0, 3]), 1, torch.tensor([0])
        )


@pytest.mark.parametrize("k", [-1, 1, 4])
def test_a_count_below_the_floors_or_above_all_is_refused(k):
    with pytest.raises(MaskError, match=f"cannot keep {k} of 3"):
        ops.global_topk_mask(
            torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 2, 3]), k, torch.tensor([1, 1])
        )


@pytest.mark.parametrize(
    "scores, offsets, floors, words",
    [
        (torch.zeros(2, 2), [0, 4], [0], "scores .* one"),
        (torch.zeros(3), [0, 2], [0], "offsets .* from 0 to 3"),
        (torch.zeros(3), [0, 3], [0, 0], "2 offsets and 2 floors do not belong together"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(scores, offsets, floors, words):
    with pytest.raises(MaskError, match=words):
        ops.global_topk_mask(scores, torch.tensor(offsets), 1, torch.tensor(floors))


@settings(max_examples=200)
@given(st.data())
def test_what_does_not_fit_is_refused_with_the_arguments_name(data):
    bad = {
        "scores": [
            torch.zeros(2, 4),
            torch.zeros(7),
            torch.zeros(8, dtype=torch.long),
            torch.full((8,), float("nan")),
            torch.full((8,), float("-inf")),
        ],
        "offsets": [
            None,
            torch.zeros(3, dtype=torch.long, device="meta"),
            torch.tensor([0, 8]),
            torch.tensor([0, 9, 8]),
            torch.tensor([0, -1, 8]),
            torch.tensor([1, 4, 8]),
            torch.tensor([0.0, 4, 8]),
            torch.tensor([[0, 4, 8]]),
        ],
        "k": [-1, 1, 9, 4.0, None, 2**70],
        "floors": [
            torch.zeros(2, dtype=torch.long, device="meta"),
            torch.tensor([1]),
            torch.tensor([5, 0]),
            torch.tensor([-1, 1]),
            torch.tensor([1.0, 1.0]),
        ],
    }
    name = data.draw(st.sampled_from(sorted(bad)))
    good = {
        "scores": torch.arange(8.0),
        "offsets": torch.tensor([0, 4, 8]),
        "k": 4,
        "floors": torch.tensor([1, 1]),
    }
    ops.global_topk_mask(**good)
    with pytest.raises(MaskError, match="cannot keep|k is" if name == "k" else name):
        ops.global_topk_mask(**good | {name: data.draw(st.sampled_from(bad[name]))})


@pytest.mark.parametrize("n", [1, 2, 999, 30_000, 100_000])
def test_exactly_k_of_many_scores_with_many_ties(n):
    scores, layers = torch.randint(0, 40, (n,)).float(), min(n, 50)
    offsets = torch.linspace(0, n, layers + 1).long()
    floors = offsets.diff() // 10
    for k in {int(floors.sum()), n // 3 or 1, n}:
        if k < floors.sum():
            continue
        mask, _, kept, _ = ops.global_topk_mask(scores, offsets, k, floors)
        again = ops.global_topk_mask(scores, offsets, k, floors).mask
        assert int(mask.sum()) == k == int(kept.sum())
        assert set(mask.tolist()) <= {0.0, 1.0} and (kept >= floors).all()
        assert torch.equal(mask, again)
        assert torch.equal(mask, ops.reference.global_topk_mask(scores, offsets, k, floors)[0])
