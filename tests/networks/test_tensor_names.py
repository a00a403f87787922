"""A network's tensors are found behind any prefix, and never half of them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pass_transfer.errors import BackboneError
from pass_transfer.networks.tensor_names import Architecture, find_network, is_pruned

SHAPES = {
    "conv1.weight": (4, 3, 3, 3),
    "bn1.weight": (4,),
    "bn1.num_batches_tracked": (),
    "layer1.conv1.weight": (6, 4, 3, 3),
    "fc.weight": (10, 6),
    "fc.bias": (10,),
}
LITTLE = Architecture("little", {n: torch.Size(s) for n, s in SHAPES.items()}, "fc")
WORDS = st.lists(st.sampled_from(["module", "model", "net", "conv1", "fc", "x"]), max_size=4)


def tensors(classes=10, seed=0):
    draw = torch.Generator().manual_seed(seed)
    made = {name: torch.rand(shape, generator=draw) for name, shape in SHAPES.items()}
    return made | {"fc.weight": torch.rand(classes, 6), "fc.bias": torch.rand(classes)}


@given(WORDS, st.booleans(), st.booleans(), st.integers(1, 20))
def test_a_network_is_found_behind_any_prefix(words, headless, counters, classes):
    prefix = "".join(f"{word}." for word in words)
    own = tensors(classes)
    own = {n: t for n, t in own.items() if not (headless and n.startswith("fc."))}
    own = {n: t for n, t in own.items() if counters or not n.endswith("tracked")}
    aside = {"zz.other": torch.zeros(3), "zz.steps": torch.tensor(5)} if prefix else {}
    found = find_network({f"{prefix}{n}": t for n, t in own.items()} | aside, LITTLE)
    assert found.prefix == prefix and found.state.keys() == own.keys()
    assert all(torch.equal(found.state[n], own[n]) for n in own)
    assert found.left_out == (["zz.other"] if prefix else [])


@given(st.sampled_from([n for n in SHAPES if not n.startswith("fc.") and "tracked" not in n]))
def test_a_network_that_lacks_a_tensor_is_not_taken_for_a_whole_one(name):
    own = tensors()
    del own[name]
    found = find_network({f"module.{n}": t for n, t in own.items()}, LITTLE)
    assert name not in found.state and "layer1.conv1.weight" in {*found.state, name}


def test_a_copy_comes_after_the_network_and_equal_ones_are_one():
    first, second = tensors(seed=1), tensors(seed=2)
    both = {f"model_ema.{n}": t for n, t in second.items()} | {
        f"model.{n}": t for n, t in first.items()
    }
    assert find_network(both, LITTLE).prefix == "model."
    equal = {f"a.{n}": t for n, t in first.items()} | {f"b.{n}": t for n, t in first.items()}
    assert find_network(equal, LITTLE).prefix == "a."
    differing = {f"a.{n}": t for n, t in first.items()} | {f"b.{n}": t for n, t in second.items()}
    with pytest.raises(BackboneError, match="a. and b."):
        find_network(differing, LITTLE)


def behind(prefix, own):
    return {f"{prefix}{name}": tensor for name, tensor in own.items()}


def test_a_copy_is_not_taken_where_the_network_itself_has_more_in_it():
    first, second = tensors(seed=1), tensors(seed=2)
    more = {"online.predictor.weight": torch.zeros(3, 3)}
    with pytest.raises(BackboneError, match="online. has other tensors too .predictor.weight"):
        find_network(behind("online.", first) | more | behind("target.", second), LITTLE)
    with pytest.raises(BackboneError, match="aux"):
        find_network(first | behind("aux.", second), LITTLE)
    assert find_network(first | behind("ema.", second), LITTLE).prefix == ""


def test_a_copy_is_told_by_words_not_by_letters():
    first, second = tensors(seed=1), tensors(seed=2)
    for one, other in (
        ("semantic_encoder.", "texture_encoder."),
        ("source_encoder.", "target_encoder."),
    ):
        with pytest.raises(BackboneError, match="several networks whose weights differ"):
            find_network(behind(one, first) | behind(other, second), LITTLE)


def test_fewer_channels_are_a_pruned_network_and_another_kernel_is_not():
    own = tensors()
    assert not is_pruned(own, LITTLE)
    cut = own | {"conv1.weight": torch.zeros(2, 3, 3, 3), "bn1.weight": torch.zeros(2)}
    assert is_pruned(cut | {"layer1.conv1.weight": torch.zeros(6, 2, 3, 3)}, LITTLE)
    assert not is_pruned(own | {"conv1.weight": torch.zeros(4, 3, 1, 1)}, LITTLE)
    assert not is_pruned(own | {"conv1.weight": torch.zeros(5, 3, 3, 3)}, LITTLE)
    assert not is_pruned({n: t for n, t in own.items() if n != "conv1.weight"}, LITTLE)
