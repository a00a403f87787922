"""The compiled selection against its twin in plain torch, with the lists of what is kept."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pass_transfer import ops


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=30),
    st.integers(1, 20),
    st.integers(0, 2**31),
    st.data(),
)
def test_compiled_topk_is_the_references_with_lists_of_what_is_kept(
    operators, widths, levels, seed, data
):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-levels, levels + 1, (sum(widths),), generator=generator).float()
    offsets = torch.tensor([0, *torch.tensor(widths).cumsum(0).tolist()])
    floors = torch.tensor([data.draw(st.integers(0, w)) for w in widths])
    k = data.draw(st.integers(int(floors.sum()), len(scores)))
    found = operators.global_topk_mask(scores, offsets, k, floors)
    for value, expected in zip(found, ops.reference.global_topk_mask(scores, offsets, k, floors)):
        assert torch.equal(value, expected)
    mask, _, kept, order = found
    for start, end, count in zip(offsets[:-1].tolist(), offsets[1:].tolist(), kept.tolist()):
        listed = order[start:end].tolist()
        assert sorted(listed) == list(range(end - start))
        assert listed[:count] == sorted(listed[:count])
        assert bool(mask[start:end][order[start:end][:count]].all())
