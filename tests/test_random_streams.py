"""Random numbers are decided by seed, name and numbers, and by nothing else."""

import subprocess
import sys

import torch
from hypothesis import given
from hypothesis import strategies as st

from pass_transfer.random_streams import stream, stream_seed

PLACES = st.tuples(
    st.integers(0, 3),
    st.sampled_from(["order", "augmentation", "importance", ""]),
    st.lists(st.integers(0, 12), max_size=3),
)


def drawn(seed, name, *numbers):
    return torch.rand(3, generator=stream(seed, name, *numbers)).tolist()


@given(one=PLACES, two=PLACES)
def test_two_streams_are_the_same_only_if_they_have_the_same_name_and_numbers(one, two):
    (seed, name, numbers), (other_seed, other_name, other_numbers) = one, two
    same = drawn(seed, name, *numbers) == drawn(other_seed, other_name, *other_numbers)
    assert same == (one == two)


@given(seed=st.integers(0, 2**63 - 1), numbers=st.lists(st.integers(0, 10**9), max_size=4))
def test_any_seed_fits_torch(seed, numbers):
    assert 0 <= stream_seed(seed, "order", *numbers) < 2**63
    torch.manual_seed(stream_seed(seed, "order", *numbers))


def test_another_process_draws_the_same():
    code = "from pass_transfer.random_streams import stream_seed; print(stream_seed(3, 'order', 1))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == stream_seed(3, "order", 1)


def test_neither_the_global_generator_nor_another_stream_matters():
    torch.manual_seed(1)
    before = drawn(0, "order")
    torch.manual_seed(2)
    drawn(0, "importance")
    assert drawn(0, "order") == before
