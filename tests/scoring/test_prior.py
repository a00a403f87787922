import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pass_transfer.scoring.prior import standardise


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50, unique=True))
def test_the_order_is_kept_and_the_values_are_normal_quantiles(values):
    given = torch.tensor(values, dtype=torch.float64)
    out = standardise({"g": given})["g"]
    quantile = statistics.NormalDist().inv_cdf
    expected = [
        max(-2.5, min(2.5, quantile((sorted(values).index(v) + 0.5) / len(values)))) for v in values
    ]
    assert out.tolist() == pytest.approx(expected, abs=1e-5)


def test_every_group_gets_the_same_distribution():
    out = standardise({"small": torch.rand(64), "large": 1000 * torch.randn(64) + 5})
    torch.testing.assert_close(out["small"].sort().values, out["large"].sort().values)
    assert abs(out["small"].mean()) < 1e-6 and 0.9 < out["small"].std() < 1.05
