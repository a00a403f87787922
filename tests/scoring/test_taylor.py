import torch
from torch import nn

from pass_transfer.masking import batch_statistics, masked
from pass_transfer.scoring.taylor import taylor


def test_importance_is_the_mean_squared_slope_of_the_loss_along_each_samples_gate(resnet18, groups):
    network = resnet18.double().requires_grad_(False)
    images, labels = torch.randn(3, 3, 32, 32, dtype=torch.float64), torch.tensor([1, 4, 4])
    scores = taylor(network, groups, [(images, labels)], network)

    def loss(name: str, unit: int, sample: int, gate: float) -> torch.Tensor:
        gates = {n: torch.ones(3, g.width, dtype=torch.float64) for n, g in groups.items()}
        gates[name][sample, unit] = gate
        with torch.no_grad(), batch_statistics(network), masked(network, groups, gates):
            return nn.functional.cross_entropy(network(images), labels, reduction="sum")

    for name, unit in (("layer1.0.conv1", 5), ("layer2.0.conv2", 7), ("layer4.1.conv1", 100)):
        slopes = [
            (loss(name, unit, s, 1 + 1e-5) - loss(name, unit, s, 1 - 1e-5)) / 2e-5 for s in range(3)
        ]
        expected = sum(slope**2 for slope in slopes) / 3
        torch.testing.assert_close(scores[name][unit], expected, rtol=1e-3, atol=1e-12)


def test_importance_is_averaged_over_batches_and_leaves_the_network_alone(resnet18, groups):
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([1, 4, 4, 0])
    one, two, both = (
        taylor(resnet18, groups, batches, resnet18)
        for batches in (
            [(images[:2], labels[:2])],
            [(images[2:], labels[2:])],
            [(images[:2], labels[:2]), (images[2:], labels[2:])],
        )
    )
    torch.testing.assert_close(groups.join(both), (groups.join(one) + groups.join(two)) / 2)
    assert not any(m._forward_pre_hooks for m in resnet18.modules())
