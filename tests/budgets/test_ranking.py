"""One ranking of all channels, and the budgets that it is cut at."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pass_transfer.budgets import BUDGET_KINDS, ROUND_TO, Budget, CutNetwork, RankedCuts
from pass_transfer.errors import MaskError, UsageError
from pass_transfer.networks import ChannelGroup, ChannelGroups, CostTable

SIDE = 32


@pytest.fixture(scope="module")
def table(networks):
    return CostTable(*networks("resnet18"), SIDE)


@pytest.fixture(scope="module")
def scores(groups):
    draw = torch.Generator().manual_seed(3)
    return {name: torch.randn(group.width, generator=draw) for name, group in groups.items()}


def never_built(masks):
    raise AssertionError("what is counted needs no network")


def select(scores, groups, table=None, **budget):
    """The masks within Budget(**budget), of single channels unless it says otherwise."""
    network = CutNetwork(groups, table, never_built, SIDE)
    return Budget(**{"round_to": 1} | budget).cut(scores, network)


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
@given(share=st.floats(0.3, 1), step=st.sampled_from([2, 8, 16]))
def test_rounded_groups_keep_multiples_or_all_and_the_best(groups, scores, table, share, step):
    masks = select(scores, groups, macs=share, table=table, round_to=step)
    assert table.macs(masks.kept) <= share * table.dense
    for name, mask in masks.items():
        assert int(mask.sum()) % step == 0 or bool(mask.all())
        assert bool(mask.all()) or scores[name][mask].min() > scores[name][~mask].max()


def test_groups_narrower_than_the_multiple_stay_whole(groups, scores, table):
    assert select(scores, groups, macs=1, table=table, round_to=1000).density == 1


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
        Budget(density=0.5, round_to=step)
    with pytest.raises(UsageError, match="round_to"):
        RankedCuts(scores, groups, round_to=step)


def test_amounts_are_those_of_the_network(groups, scores, table):
    few = select(scores, groups, macs="20M", table=table)
    assert 19.5e6 < table.macs(few.kept) <= 20e6
    small = select(scores, groups, params="3.5m", table=table)
    assert 3.4e6 < table.parameters(small.kept) <= 3.5e6
    written = select(scores, groups, macs="0.5", table=table)
    assert written == select(scores, groups, macs=0.5, table=table)
    with pytest.raises(MaskError, match=r"\d+ of \d+, which is the lowest"):
        select(scores, groups, macs="1K", table=table)


@settings(max_examples=25)
@given(share=st.floats(0.05, 1), uniform=st.booleans())
def test_a_macs_budget_is_never_exceeded_and_used_to_the_last_channel(
    groups, scores, table, share, uniform
):
    masks = select(scores, groups, macs=share, table=table, uniform=uniform)
    count = sum(masks.kept.values())
    assert table.macs(masks.kept) <= share * table.dense
    if masks.density < 1:
        one_more = (count + 1) / groups.total
        more = select(scores, groups, density=one_more, uniform=uniform)
        assert masks.issubset(more) and sum(more.kept.values()) == count + 1
        assert table.macs(more.kept) > share * table.dense


def test_uniform_keeps_the_same_share_and_the_best_of_every_group(groups):
    scores = {}
    for number, (name, group) in enumerate(groups.items()):
        scores[name] = torch.randn(group.width) * 10**number
    masks = select(scores, groups, density=0.5, uniform=True)
    for name, group in groups.items():
        assert abs(masks.kept[name] / group.width - 0.5) <= 1 / group.width
        best = set(scores[name].sort(descending=True).indices[: masks.kept[name]].tolist())
        assert set(masks[name].nonzero().flatten().tolist()) == best


def test_a_whole_budget_keeps_everything(groups, scores, table):
    assert select(scores, groups, density=1.0).density == 1
    assert select(scores, groups, macs=1, table=table).density == 1


NO_SHARES = [0, -0.5, 1.5, float("nan"), float("inf"), "some", "1.5", "0G", "-1G", "nan", "1T", ""]


@pytest.mark.parametrize("value", [*NO_SHARES, True])
@pytest.mark.parametrize("kind", ["macs", "params", "density"])
def test_a_share_out_of_range_is_refused(kind, value):
    with pytest.raises(UsageError, match=f"^{kind} is "):
        Budget(**{kind: value})


def test_a_density_is_no_amount():
    with pytest.raises(UsageError, match="density is 5M"):
        Budget(density="5M")


@pytest.mark.parametrize(
    "bounds, here",
    [
        ({}, "none"),
        ({"macs": None}, "none"),
        ({"macs": 0.5, "density": 0.4}, "macs=0.5 and density=0.4"),
    ],
)
def test_exactly_one_bound_has_to_be_given(bounds, here):
    with pytest.raises(UsageError, match=f"exactly one budget of .*; here is {here}"):
        Budget(**bounds)


def test_a_bound_that_is_not_given_does_not_count():
    assert Budget(macs=0.5, params=None, density=None, latency_ms=None) == Budget(macs=0.5)


def test_an_unknown_bound_is_named_with_those_that_there_are():
    with pytest.raises(UsageError, match="flops is no budget") as refusal:
        Budget(flops=0.5)
    assert all(kind in str(refusal.value) for kind in BUDGET_KINDS)


@pytest.mark.parametrize("batch", [0, -1, 1.5, True, "8"])
def test_a_batch_that_is_no_number_of_images_is_refused(batch):
    with pytest.raises(UsageError, match="batch is "):
        Budget(macs=0.5, batch=batch)


BUDGETS = [
    Budget(macs=0.4),
    Budget(macs="70M", round_to=1, fill=True),
    Budget(params="3M", keep_layers=["layer1.*", "fc"]),
    Budget(density=0.5, round_to=16, uniform=True),
    Budget(latency_ms=60, batch=32),
]


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda budget: budget.kind)
def test_what_is_saved_as_json_is_the_same_budget_again(budget):
    saved = json.loads(json.dumps(budget.saved()))
    assert Budget(**saved) == budget
    assert saved[budget.kind] == budget.value


def test_groups_keep_multiples_of_eight_unless_asked_for_others():
    assert ROUND_TO == 8
    assert Budget(macs=0.5) == Budget(macs=0.5, round_to=8)
    assert Budget(macs=0.5).saved() == {"macs": 0.5, "round_to": 8, "keep_layers": []}


def test_replacing_a_field_leaves_the_others_and_the_budget_itself():
    budget = Budget(params="3M", keep_layers=["fc"], uniform=True)
    other = budget.replace(round_to=1, uniform=False)
    assert other == Budget(params="3M", keep_layers=["fc"], round_to=1)
    assert budget == Budget(params="3M", keep_layers=["fc"], uniform=True)
    with pytest.raises(UsageError, match="exactly one"):
        budget.replace(macs=0.5)


def test_a_budget_is_filled_up_where_it_keeps_single_channels():
    assert Budget(macs=0.5, round_to=1).filled() == Budget(macs=0.5, round_to=1, fill=True)
    assert Budget(macs=0.5).filled() == Budget(macs=0.5)


@pytest.mark.parametrize("kind", ["macs", "params", "density"])
def test_a_budget_below_the_floors_is_refused_with_the_lowest_one(groups, scores, table, kind):
    network = CutNetwork(groups, table, never_built, SIDE)
    for refused in (Budget.cut, Budget.check):
        with pytest.raises(MaskError, match=f"{kind} 0.001 cannot be met.*lowest"):
            refused(Budget(**{kind: 0.001}), scores, network)
        refused(Budget(**{kind: 0.5}), scores, network)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("uniform", [False, True])
def test_scores_that_are_no_number_are_refused(groups, scores, value, uniform):
    broken = scores["conv1"].index_fill(0, torch.tensor([3]), value)
    with pytest.raises(MaskError, match="NaN or infinite"):
        select(scores | {"conv1": broken}, groups, density=0.5, uniform=uniform)


def test_scores_of_another_network_are_refused(groups, scores):
    fewer = {name: part for name, part in scores.items() if name != "conv1"}
    for other in (fewer, scores | {"conv1": torch.zeros(65)}):
        with pytest.raises(MaskError, match="another network"):
            select(other, groups, density=0.5)


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
    plain = select(scores, groups, macs=share, table=table, uniform=uniform)
    filled = select(scores, groups, macs=share, table=table, uniform=uniform, fill=True)
    kept, limit = filled.kept, share * table.dense
    assert plain.issubset(filled) and table.macs(kept) <= limit
    for name, group in groups.items():
        if kept[name] == group.width:
            continue
        assert table.macs(kept | {name: kept[name] + 1}) > limit
        added = scores[name][filled[name] & ~plain[name]]
        left = scores[name][~filled[name]]
        assert not len(added) or added.min() >= left.max(), "best first"


def test_filling_goes_with_single_units_alone():
    with pytest.raises(UsageError, match="fill"):
        Budget(macs=0.5, round_to=8, fill=True)


def test_heads_are_not_rounded():
    heads = ChannelGroup("heads", 12, {}, {}, products={"attention": 5})
    groups = ChannelGroups({"heads": heads, "b": ChannelGroup("b", 12, {}, {})}, (), "grouped")
    cuts = RankedCuts({name: torch.rand(12) for name in groups}, groups, round_to=8)
    kept = [cuts.kept(count) for count in range(cuts.least, cuts.most + 1)]
    assert {units["heads"] for units in kept} == set(range(2, 13))
    assert {units["b"] for units in kept} == {8, 12}
