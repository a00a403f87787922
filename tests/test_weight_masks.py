"""Masks of single weights: a value, zeros that stay, files."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pass_transfer.errors import MaskError
from pass_transfer.files import write_tensors
from pass_transfer.networks.single_weights import single_weights
from pass_transfer.training.replicas import Replicas
from pass_transfer.training.runtime import choose_runtime
from pass_transfer.weight_masks import WeightMasks, from_bits, to_bits


def drawn(weights, kept=0.1, seed=0):
    source = torch.Generator().manual_seed(seed)
    masks = {n: torch.rand(w.shape, generator=source) < kept for n, w in weights.items()}
    return WeightMasks(masks)


def small():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(288, 10))


def zeros(network, masks):
    found = dict(network.named_parameters())
    return {n: bool((found[n].detach()[~mask] == 0).all()) for n, mask in masks.items()}


@given(st.lists(st.integers(1, 6), min_size=2, max_size=4), st.integers(0, 2**31))
def test_bits_give_the_mask_again(shape, seed):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    assert torch.equal(from_bits(to_bits(mask), mask.shape), mask)
    assert to_bits(mask).numel() == -(-mask.numel() // 8)


def test_single_weights_are_those_of_convolutions_and_linear_layers_but_the_classifier(resnet18):
    names = set(single_weights(resnet18))
    whole = {name for name, weight in resnet18.named_parameters() if weight.ndim > 1}
    assert names == whole - {"fc.weight"}


def test_a_copy_has_exact_zeros_and_the_network_itself_has_not(resnet18):
    weights = single_weights(resnet18)
    masks = drawn(weights)
    applied, before = masks.apply(resnet18), copy.deepcopy(resnet18.state_dict())
    found = dict(applied.named_parameters())
    for name, mask in masks.items():
        assert torch.equal(found[name], torch.where(mask, weights[name], torch.zeros(())))
        assert not torch.signbit(found[name][~mask]).any()
    assert all(torch.equal(before[n], t) for n, t in resnet18.state_dict().items())
    assert masks.dropped == sum(int((~mask).sum()) for mask in masks.values())


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, 0.5, momentum=0.9, weight_decay=0.1, nesterov=True),
        lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1),
    ],
)
def test_held_zeros_stay_through_training_with_momentum_and_weight_decay(optimizer):
    network = small()
    masks = drawn(single_weights(network))
    masks.zero_(network)
    masks.hold(network)
    start, stepping = copy.deepcopy(network), optimizer(network.parameters())
    for _ in range(5):
        stepping.zero_grad()
        nn.functional.cross_entropy(network(torch.randn(4, 3, 8, 8)), torch.arange(4)).backward()
        stepping.step()
    assert all(zeros(network, masks).values())
    kept = masks["0.weight"]
    assert (network[0].weight != start[0].weight)[kept].all()


def test_held_zeros_stay_where_threads_share_a_batch():
    network, before = small(), torch.get_num_threads()
    masks = drawn(single_weights(network))
    masks.zero_(network)
    masks.hold(network)
    torch.set_num_threads(2)
    try:
        replicas = Replicas.fitting(network, choose_runtime("cpu", "no"), 64)
        assert replicas is not None
        images, labels = torch.randn(64, 3, 8, 8), torch.randint(10, (64,))

        def work(net, images, labels):
            logits = net(images)
            return nn.functional.cross_entropy(logits, labels), logits.argmax(1)

        replicas.backward(work, images, labels)
    finally:
        torch.set_num_threads(before)
    for name, mask in masks.items():
        gradient = dict(network.named_parameters())[name].grad
        assert (gradient[~mask] == 0).all() and gradient[mask].any()


def test_weights_that_are_no_zeros_cannot_be_held():
    network = small()
    with pytest.raises(MaskError, match="not zero"):
        drawn(single_weights(network)).hold(network)


def test_a_file_holds_a_bit_for_each_and_gives_the_masks_again(tmp_path, resnet18):
    weights, path = single_weights(resnet18), tmp_path / "masks.safetensors"
    masks = drawn(weights)
    masks.save(path)
    assert WeightMasks.load(path, weights) == masks == WeightMasks.load(path)
    count = sum(masks.sizes.values())
    assert count / 8 <= path.stat().st_size < count / 8 + 10_000


def test_masks_of_another_network_are_refused(tmp_path, resnet18):
    masks, path = drawn(single_weights(small())), tmp_path / "masks.safetensors"
    masks.save(path)
    with pytest.raises(MaskError, match="another network"):
        WeightMasks.load(path, single_weights(resnet18))
    with pytest.raises(MaskError, match="another network"):
        masks.apply(resnet18)
    write_tensors(path, {"layer": torch.ones(3, dtype=torch.uint8)})
    with pytest.raises(MaskError, match="single weights"):
        WeightMasks.load(path)


def test_masks_are_compared_by_what_they_keep_and_never_change():
    weights = single_weights(small())
    masks = drawn(weights)
    masks["0.weight"].fill_(True)
    assert masks == drawn(weights) != drawn(weights, seed=1)
    assert hash(masks) == hash(drawn(weights))
