"""Least squares after removal: kept channels take over what cut ones carried."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pass_transfer.networks import kind_of
from pass_transfer.networks.network import Network
from pass_transfer.networks.removal import remove_channels
from pass_transfer.shrinking.fits import RIDGE, FitOfPlaces, LeastSquares
from pass_transfer.shrinking.recalibrate import recalibrate
from pass_transfer.shrinking.reconstruct import Reconstruction, reconstruct_readers
from pass_transfer.tasks import load_task
from pass_transfer.training import choose_runtime, to_images

MEAN, STD = (0.5,) * 3, (0.25,) * 3


@pytest.fixture(scope="module")
def task():
    """400 training digits at 32 pixels."""
    whole = load_task("digits", 32)
    return dataclasses.replace(whole, train=whole.train.subset(np.arange(400)))


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6), kept=st.integers(1, 7), size=st.sampled_from([(), (3, 3), (1, 2)])
)
def test_it_is_ridge_regression_of_the_lost_part(seed, kept, size):
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 8, *size, generator=draw, dtype=torch.float64)
    rows = torch.randn(200, weight[0].numel(), generator=draw, dtype=torch.float64) + 1
    channels = torch.zeros(8, dtype=torch.bool)
    channels[torch.randperm(8, generator=draw)[:kept]] = True
    fit = LeastSquares(weight, channels)
    for part in rows.split(64):
        fit.add(part)
    added, shift = fit.solve()
    stays = channels[:, None].expand(8, weight[0, 0].numel()).flatten()
    flat = weight.flatten(1)
    mean = rows.mean(0)
    x, lost = (rows - mean)[:, stays], (rows - mean)[:, ~stays] @ flat[:, ~stays].T
    strength = RIDGE * x.square().mean(0).mean() * len(rows)
    padded = torch.cat([x, strength.sqrt() * torch.eye(x.shape[1], dtype=torch.float64)])
    expected = torch.linalg.lstsq(
        padded, torch.cat([lost, torch.zeros(x.shape[1], 3, dtype=torch.float64)])
    ).solution.T
    torch.testing.assert_close(added, expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(shift, flat[:, ~stays] @ mean[~stays] - added @ mean[stays])


def test_behind_a_flattening_every_place_has_the_regression_of_the_channels():
    torch.manual_seed(0)
    channels, places = 6, 5
    weight = torch.randn(3, channels * places, dtype=torch.float64)
    maps = torch.randn(300, channels, places, dtype=torch.float64) + 1
    maps[:, 4] = 2 * maps[:, 1] - 3 * maps[:, 2] + 0.5  # a cut channel that others repeat
    mask = torch.tensor([True, True, True, False, False, True])
    inputs = torch.arange(channels * places).view(channels, places)
    fit = FitOfPlaces(weight, mask, inputs, LeastSquares)
    for part in maps.flatten(1).split(64):
        fit.add(part)
    added, shift = fit.solve()
    of_channels = LeastSquares(torch.eye(channels, dtype=torch.float64), mask)
    of_channels.add(maps.transpose(1, 2).flatten(0, 1))
    stand_in, offset = of_channels.solve()
    assert stand_in[4, 1:3] == pytest.approx([2, -3], rel=0.05)
    by_place = weight.view(3, channels, places)
    expected = [torch.einsum("oc,ck->ok", by_place[:, :, p], stand_in) for p in range(places)]
    torch.testing.assert_close(added.view(3, 4, places), torch.stack(expected, 2))
    torch.testing.assert_close(shift, by_place.sum(2) @ offset)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    kernel=st.sampled_from([(1, 1), (3, 3), (2, 3)]),
    stride=st.sampled_from([(1, 1), (2, 1)]),
    padding=st.sampled_from([(0, 0), (1, 2)]),
    dilation=st.sampled_from([(1, 1), (2, 1)]),
    places=st.sampled_from([1, 5, 1000]),
)
def test_rows_are_what_the_layer_multiplies_its_weights_with(
    seed, kernel, stride, padding, dilation, places
):
    layer = torch.nn.Conv2d(4, 5, kernel, stride, padding, dilation, bias=False)
    images = torch.randn(3, 4, 7, 8, generator=torch.Generator().manual_seed(seed))
    draw = torch.Generator().manual_seed(seed)
    rows = kind_of(layer).rows(layer, images, places, draw)
    made = layer(images).flatten(2)
    chosen = torch.randperm(made.shape[2], generator=torch.Generator().manual_seed(seed))[:places]
    torch.testing.assert_close(
        (rows @ layer.weight.flatten(1).T).view(3, -1, 5).mT,
        made[:, :, chosen],
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_channel_that_another_repeats_is_not_missed(resnet18, groups, task, cpu):
    backbone = copy.deepcopy(resnet18)
    block, half = backbone.layer1[0], 32
    with torch.no_grad():
        for tensor in (block.conv1.weight, block.bn1.weight, block.bn1.bias):
            tensor[half:] = tensor[:half]
    masks = {name: torch.ones(group.width, dtype=torch.bool) for name, group in groups.items()}
    masks["layer1.0.conv1"][half:] = False
    dense = cpu.place(Network(backbone, MEAN, STD))
    recalibrate(dense, task.train, cpu)
    images = to_images(task.held_out.subset(np.arange(16)).__getitems__(range(16))[0], cpu.device)
    errors = {}
    for repair in (False, True):
        small = Network(remove_channels(dense.backbone, masks, groups), MEAN, STD)
        if repair:
            reconstruct_readers(
                dense, small.backbone, masks, groups, task.train, cpu, Reconstruction(images=256)
            )
        with torch.no_grad():
            errors[repair] = (
                (small.eval()(images) - dense(images)).norm() / dense(images).norm()
            ).item()
    assert errors[True] < 0.15 * errors[False]


def test_only_layers_that_lost_inputs_change_and_the_dense_network_does_not(
    resnet18, groups, random_masks, task, cpu
):
    masks = dict(random_masks(groups, 3, 0.5))
    masks["layer2.0.conv2"][:] = True
    dense = cpu.place(Network(copy.deepcopy(resnet18), MEAN, STD)).eval()
    before = copy.deepcopy(dense.state_dict())
    plain = remove_channels(dense.backbone, masks, groups)
    small = copy.deepcopy(plain)
    reconstruct_readers(dense, small, masks, groups, task.train, cpu, Reconstruction(images=128))
    assert all(torch.equal(t, before[n]) for n, t in dense.state_dict().items())
    changed = {
        n for n, t in small.state_dict().items() if not torch.equal(t, plain.state_dict()[n])
    }
    whole = {"layer2.1.conv1.weight", "layer3.0.conv1.weight", "layer3.0.downsample.0.weight"}
    assert changed == {
        f"{layer}.weight" for group in groups.values() for layer in group.reads
    } - whole | {"fc.bias"}


def test_it_is_the_same_every_time(resnet18, groups, random_masks, task, cpu):
    masks, dense = (
        random_masks(groups, 4, 0.5),
        cpu.place(Network(copy.deepcopy(resnet18), MEAN, STD)).eval(),
    )
    found = []
    for _ in range(2):
        small = remove_channels(dense.backbone, masks, groups)
        reconstruct_readers(
            dense, small, masks, groups, task.train, cpu, Reconstruction(images=128, seed=5)
        )
        found.append(small.state_dict())
    assert all(torch.equal(t, found[1][n]) for n, t in found[0].items())


def test_mixed_precision_solves_the_same_problem(resnet18, groups, random_masks, task):
    masks = random_masks(groups, 6, 0.5)
    errors = {}
    for precision in ("no", "bf16"):
        runtime = choose_runtime("cpu", precision)
        dense = runtime.place(Network(copy.deepcopy(resnet18), MEAN, STD)).eval()
        recalibrate(dense, task.train, runtime)
        small = Network(remove_channels(dense.backbone, masks, groups), MEAN, STD)
        reconstruct_readers(
            dense, small.backbone, masks, groups, task.train, runtime, Reconstruction(images=256)
        )
        recalibrate(small, task.train, runtime)
        images = to_images(task.held_out.__getitems__(range(16))[0], runtime.device)
        with torch.no_grad():
            errors[precision] = (
                (small(images) - dense(images)).norm() / dense(images).norm()
            ).item()
    assert errors["bf16"] < 1.1 * errors["no"]
