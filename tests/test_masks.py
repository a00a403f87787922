import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pass_transfer.errors import MaskError
from pass_transfer.files import write_tensors
from pass_transfer.masks import ChannelMasks


def pair() -> ChannelMasks:
    return ChannelMasks({"b": torch.tensor([True, False, True]), "a": torch.tensor([True, True])})


# the value


def test_masks_say_what_they_keep():
    masks = pair()
    assert masks.kept == {"b": 2, "a": 2} and masks.widths == {"b": 3, "a": 2}
    assert masks.density == 4 / 5
    assert list(masks) == ["b", "a"] and len(masks) == 2


def test_masks_cannot_be_changed_from_outside():
    given = torch.tensor([True, False, True])
    masks = ChannelMasks({"a": given})
    given[1] = True
    masks["a"][0] = False
    assert masks["a"].tolist() == [True, False, True]
    with pytest.raises(TypeError):
        masks["a"] = given


def test_masks_are_equal_by_content_and_work_in_a_set():
    same = ChannelMasks({name: pair()[name] for name in reversed(list(pair()))})
    other = ChannelMasks({"b": torch.tensor([True, True, True]), "a": torch.tensor([True, True])})
    assert pair() == same and pair() != other and pair() != dict(pair())
    assert len({pair(), same, other}) == 2


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_difference_is_the_share_of_units_that_differ(rows):
    one, two = ([True, *column] for column in zip(*rows))
    a, b = ChannelMasks({"g": torch.tensor(one)}), ChannelMasks({"g": torch.tensor(two)})
    assert a.difference(b) == b.difference(a) == sum(x != y for x, y in zip(one, two)) / len(one)
    assert a.issubset(b) == all(y or not x for x, y in zip(one, two))


def test_masks_of_another_network_cannot_be_compared():
    with pytest.raises(MaskError, match="different networks"):
        pair().difference(ChannelMasks({"a": torch.tensor([True, True])}))


@pytest.mark.parametrize(
    "bad, why",
    [
        (torch.tensor([1.0, 0.0]), "bool"),
        (torch.ones(2, 2, dtype=torch.bool), "bool"),
        (torch.zeros(3, dtype=torch.bool), "no channel"),
    ],
)
def test_masks_that_are_none_are_refused(bad, why):
    with pytest.raises(MaskError, match=why):
        ChannelMasks({"a": bad})


# files


@pytest.mark.parametrize("architecture", ["resnet18", "resnext50_32x4d"])
def test_saved_masks_come_back_equal_and_in_order(tmp_path, networks, random_masks, architecture):
    groups = networks(architecture)[1]
    masks = random_masks(groups, 5)
    masks.save(tmp_path / "m.safetensors")
    back = ChannelMasks.load(tmp_path / "m.safetensors", groups)
    assert back == masks and list(back) == list(groups)
    assert ChannelMasks.load(tmp_path / "m.safetensors") == masks


def test_masks_come_back_equal_where_forward_order_is_not_alphabetical(tmp_path):
    pair().save(tmp_path / "m.safetensors")
    assert ChannelMasks.load(tmp_path / "m.safetensors") == pair()


def test_masks_of_another_network_are_refused_when_loaded(tmp_path, networks, random_masks):
    random_masks(networks("resnet50")[1], 5).save(tmp_path / "m.safetensors")
    with pytest.raises(MaskError, match="another network"):
        ChannelMasks.load(tmp_path / "m.safetensors", networks("resnet18")[1])


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([1.0, 0.0]),
        torch.tensor([0, 2], dtype=torch.uint8),
        torch.tensor([0, 0], dtype=torch.uint8),
        torch.empty(0, dtype=torch.uint8),
        torch.ones(2, 2, dtype=torch.uint8),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, tensor):
    write_tensors(tmp_path / "m.safetensors", {"a": tensor})
    with pytest.raises(MaskError):
        ChannelMasks.load(tmp_path / "m.safetensors")
