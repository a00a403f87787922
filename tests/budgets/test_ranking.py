import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pass_transfer.budgets.ranking import RankedCuts, select
from pass_transfer.errors import MaskError, UsageError
from pass_transfer.networks import CostTable


@pytest.fixture(scope="module")
def table(networks):
    return CostTable(*networks("resnet18"), 32)


@pytest.fixture(scope="module")
def scores(groups):
    draw = torch.Generator().manual_seed(3)
    return {name: torch.randn(group.width, generator=draw) for name, group in groups.items()}


def test_floors_keep_a_tenth_rounded_up(groups):
    assert groups.floors.tolist() == [math.ceil(g.width / 10) for g in groups.values()]


@given(density=st.floats(0.11, 1))
def test_density_keeps_that_share_of_the_channels(groups, scores, density):
    masks = select(scores, groups, density=density)
    assert abs(masks.density - density) <= 0.5 / groups.total + 1e-12
    assert all(kept >= math.ceil(groups[name].width / 10) for name, kept in masks.kept.items())


def test_one_ranking_over_all_groups_keeps_the_highest_scores(groups, scores):
    masks = select(scores, groups, density=0.5)
    kept = torch.cat([scores[n][masks[n]] for n in groups])
    dropped = torch.cat([scores[n][~masks[n]] for n in groups])
    assert kept.min() > dropped.max()


@settings(max_examples=25)
@given(
    shares=st.tuples(st.floats(0.15, 1), st.floats(0.15, 1)),
    kind=st.sampled_from(["macs", "params", "density"]),
    uniform=st.booleans(),
    step=st.sampled_from([1, 8, 16]),
    keep=st.booleans(),
)
def test_a_smaller_budget_keeps_a_subset(groups, scores, table, shares, kind, uniform, step, keep):
    small, large = sorted(shares)
    how = {
        "table": table,
        "uniform": uniform,
        "round_to": step,
        "keep_layers": ["layer1.0.conv1"] if keep else [],
    }
    try:
        few = select(scores, groups, **how, **{kind: small})
    except MaskError as error:
        assert "lowest budget" in str(error)
        return
    many = select(scores, groups, **how, **{kind: large})
    assert few.issubset(many)
    assert select(scores, groups, **how, **{kind: small}) == few


@settings(max_examples=25)
@given(share=st.floats(0.3, 1), step=st.sampled_from([2, 8, 16, 1000]))
def test_rounded_groups_keep_multiples_or_all_and_the_best(groups, scores, table, share, step):
    masks = (
        select(scores, groups, macs=share, table=table, round_to=step)
        if step < 1000
        else select(scores, groups, macs=1, table=table, round_to=step)
    )
    assert table.macs(masks.kept) <= share * table.dense or step == 1000
    for name, mask in masks.items():
        assert int(mask.sum()) % step == 0 or bool(mask.all())
        assert bool(mask.all()) or scores[name][mask].min() > scores[name][~mask].max()


@pytest.mark.parametrize(
    "pattern, whole",
    [
        ("layer2.0.conv1", {"layer2.0.conv1", "conv1"}),
        ("layer4.1.*", {"layer4.1.conv1", "layer4.0.conv2"}),
        ("fc", {"layer4.0.conv2"}),
    ],
)
def test_layers_to_be_kept_write_and_read_whole_groups(groups, scores, pattern, whole):
    masks = select(scores, groups, density=0.6, keep_layers=[pattern])
    assert {name for name, mask in masks.items() if bool(mask.all())} == whole


def test_a_pattern_that_no_layer_has_is_refused(groups, scores):
    with pytest.raises(UsageError, match="layer9"):
        select(scores, groups, density=0.5, keep_layers=["layer9.*"])


@pytest.mark.parametrize("step", [0, -8, 1.5, True, "8"])
def test_a_rounding_that_is_no_whole_number_is_refused(groups, scores, step):
    with pytest.raises(UsageError, match="round_to"):
        select(scores, groups, density=0.5, round_to=step)


def test_amounts_are_those_of_the_network(groups, scores, table):
    few = select(scores, groups, macs="20M", table=table)
    assert table.macs(few.kept) <= 20e6 and table.macs(few.kept) > 19.5e6
    small = select(scores, groups, params="3.5m", table=table)
    assert 3.4e6 < table.parameters(small.kept) <= 3.5e6
    assert select(scores, groups, macs="0.5", table=table) == select(
        scores, groups, macs=0.5, table=table
    )
    with pytest.raises(MaskError, match=r"\d+ of \d+, which is the lowest"):
        select(scores, groups, macs="1K", table=table)


@settings(max_examples=25)
@given(share=st.floats(0.05, 1), uniform=st.booleans())
def test_a_macs_budget_is_never_exceeded_and_used_to_the_last_channel(
    groups, scores, table, share, uniform
):
    masks = select(scores, groups, macs=share, table=table, uniform=uniform)
    assert table.macs(masks.kept) <= share * table.dense
    if masks.density < 1:
        more = select(
            scores, groups, density=(sum(masks.kept.values()) + 1) / groups.total, uniform=uniform
        )
        assert masks.issubset(more) and sum(more.kept.values()) == sum(masks.kept.values()) + 1
        assert table.macs(more.kept) > share * table.dense


def test_uniform_keeps_the_same_share_and_the_best_of_every_group(groups):
    scores = {
        name: torch.randn(group.width) * 10**n for n, (name, group) in enumerate(groups.items())
    }
    masks = select(scores, groups, density=0.5, uniform=True)
    for name, group in groups.items():
        assert abs(masks.kept[name] / group.width - 0.5) <= 1 / group.width
        best = set(scores[name].sort(descending=True).indices[: masks.kept[name]].tolist())
        assert set(masks[name].nonzero().flatten().tolist()) == best


def test_a_whole_budget_keeps_everything(groups, scores, table):
    assert select(scores, groups, density=1.0).density == 1
    assert select(scores, groups, macs=1, table=table).density == 1


@pytest.mark.parametrize(
    "value", [0, -0.5, 1.5, float("nan"), float("inf"), "some", "1.5", "0G", "-1G", "nan", "1T", ""]
)
@pytest.mark.parametrize("kind", ["macs", "params", "density"])
def test_a_share_out_of_range_is_refused(groups, scores, table, kind, value):
    with pytest.raises(UsageError, match=kind):
        select(scores, groups, table=table, **{kind: value})


@pytest.mark.parametrize("budget", [{}, {"macs": 0.5, "density": 0.5}])
def test_exactly_one_budget_has_to_be_given(groups, scores, table, budget):
    with pytest.raises(UsageError, match="exactly one"):
        select(scores, groups, table=table, **budget)


def test_a_macs_budget_needs_a_table(groups, scores):
    with pytest.raises(UsageError, match="CostTable"):
        select(scores, groups, macs=0.5)


@pytest.mark.parametrize("kind", ["macs", "density"])
def test_a_budget_below_the_floors_is_refused_with_the_lowest_one(groups, scores, table, kind):
    with pytest.raises(MaskError, match="lowest"):
        select(scores, groups, table=table, **{kind: 0.001})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("uniform", [False, True])
def test_scores_that_are_no_number_are_refused(groups, scores, value, uniform):
    with pytest.raises(MaskError, match="NaN or infinite"):
        select(
            scores | {"conv1": scores["conv1"].index_fill(0, torch.tensor([3]), value)},
            groups,
            density=0.5,
            uniform=uniform,
        )


def test_scores_of_another_network_are_refused(groups, scores):
    with pytest.raises(MaskError, match="another network"):
        select({n: s for n, s in scores.items() if n != "conv1"}, groups, density=0.5)
    with pytest.raises(MaskError, match="another network"):
        select(scores | {"conv1": torch.zeros(65)}, groups, density=0.5)


@settings(max_examples=25)
@given(count=st.integers(0, 10_000), step=st.sampled_from([1, 8, 16]))
def test_the_next_larger_cut_keeps_more_and_nothing_lies_between(groups, scores, count, step):
    cuts = RankedCuts(scores, groups, round_to=step)
    count = cuts.least + count % (cuts.most - cuts.least)
    more = cuts.next_larger(count)
    if more is None:
        assert all(cuts.kept(count)[name] == group.width for name, group in groups.items())
    else:
        assert cuts.kept(more) != cuts.kept(count) == cuts.kept(more - 1)
        assert cuts.masks(count).issubset(cuts.masks(more))


@settings(max_examples=20)
@given(share=st.floats(0.15, 0.95), uniform=st.booleans())
def test_a_filled_cut_is_within_the_budget_and_no_unit_fits_any_more(
    groups, scores, table, share, uniform
):
    plain, filled = (
        select(scores, groups, macs=share, table=table, uniform=uniform, fill=fill)
        for fill in (False, True)
    )
    assert plain.issubset(filled) and table.macs(filled.kept) <= share * table.dense
    kept = filled.kept
    for name, group in groups.items():
        assert (
            kept[name] == group.width
            or table.macs(kept | {name: kept[name] + 1}) > share * table.dense
        )
        added = scores[name][filled[name] & ~plain[name]]
        assert (
            kept[name] == group.width
            or not len(added)
            or added.min() >= scores[name][~filled[name]].max()
        ), "best first"


def test_filling_goes_with_single_units_alone(groups, scores, table):
    with pytest.raises(UsageError, match="fill"):
        select(scores, groups, macs=0.5, table=table, round_to=8, fill=True)
