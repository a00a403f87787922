"""Pictures of a run, drawn from its numbers."""

import pytest

from pass_transfer.report.drawing import LIGHT
from pass_transfer.report.pictures import accuracy_picture


@pytest.mark.parametrize("top1", [0.4, 61.37, 96.2, 99.16, 100.0])
def test_accuracies_are_marked_up_to_100_per_cent(top1):
    result = {"macs": 18e6, "dense_macs": 37e6, "top1": top1}
    result |= {"top1_without_prompt": None, "dense_top1": None}
    axes = accuracy_picture(result).draw(LIGHT).axes[0]
    ticks, (low, high) = axes.get_yticks(), axes.get_ylim()
    assert len(ticks) >= 2 and low <= min(ticks) and max(ticks) <= min(100, high)
    assert low < top1 < high
