import numpy as np
import torch

from pass_transfer.scoring.hypernet.weights import LayerWeights


def test_each_layer_is_averaged_over_kernel_and_kept_inputs(networks, random_masks):
    network, groups = networks("resnet18")
    masks = random_masks(groups, 3)
    rows = LayerWeights(network, groups, 32).vectors(
        groups.join({n: m.double() for n, m in masks.items()})
    )
    assert rows.shape == (len(groups.steps), 32)
    for name, source in (
        ("conv1", None),
        ("layer1.0.conv2", "layer1.0.conv1"),
        ("layer3.0.conv1", "layer2.0.conv2"),
    ):
        weight = network.get_submodule(name).weight.detach().double().numpy()
        kept = np.arange(3) if source is None else np.flatnonzero(masks[source].numpy())
        average = weight[:, kept].mean(axis=(1, 2, 3))
        pooled = average.reshape(32, -1).mean(1)
        np.testing.assert_allclose(
            rows[groups.steps.index(name)].numpy(), pooled / pooled.std(ddof=1), rtol=1e-8
        )


def test_dropped_inputs_do_not_matter(networks, random_masks):
    network, groups = networks("resnet18")
    masks = {n: m.double() for n, m in random_masks(groups, 3).items()}
    before = LayerWeights(network, groups, 64).vectors(groups.join(masks))
    weight = network.layer1[0].conv2.weight.detach()
    stored = weight.clone()
    try:
        weight[:, masks["layer1.0.conv1"] == 0] = 100
        after = LayerWeights(network, groups, 64).vectors(groups.join(masks))
    finally:
        weight.copy_(stored)
    torch.testing.assert_close(after, before)
