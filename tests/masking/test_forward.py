"""The fused steps of a masked backbone against the same network with hooks, in float64."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from pass_transfer import ops
from pass_transfer.errors import KernelError
from pass_transfer.masking import batch_statistics, capacity_for, masked, masked_forward
from pass_transfer.masking.plan import Layer, plan_of
from pass_transfer.networks import find_groups

pytest.importorskip("pass_transfer._C", reason="the extension is not built", exc_type=ImportError)


@pytest.fixture(params=["resnet18", "resnet50", "vgg11", "vgg11_bn"])
def problem(request, networks):
    """A frozen network in float64, its groups, images and labels."""
    if request.param.startswith("vgg"):
        import torchvision

        torch.manual_seed(1)
        features = getattr(torchvision.models, request.param)(num_classes=10).features
        network = nn.Sequential(
            features,
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(2048, 24),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(24, 10),
        )
        network = Classified(network)
        groups = find_groups(network, 32)
    else:
        network, groups = networks(request.param)
    network = copy.deepcopy(network).double().requires_grad_(False)
    torch.manual_seed(2)
    return (
        network,
        groups,
        torch.randn(4, 3, 32, 32, dtype=torch.float64),
        torch.tensor([1, 5, 5, 9]),
    )


class Classified(nn.Module):
    """A chain whose last layer goes by the name of a classifier."""

    def __init__(self, chain: nn.Sequential):
        super().__init__()
        self.body, self.classifier = chain[:-1], chain[-1]

    def forward(self, x):
        return self.classifier(self.body(x))


def run(forward, masks, x, labels):
    leaves = {n: m.clone().requires_grad_() for n, m in masks.items()}
    image = x.clone().requires_grad_()
    logits = forward(leaves, image)
    nn.functional.cross_entropy(logits, labels).backward()
    return logits.detach(), image.grad, torch.cat([leaf.grad for leaf in leaves.values()])


def with_hooks(network, groups):
    def forward(leaves, image):
        with batch_statistics(network), masked(network, groups, leaves):
            return network(image)

    return forward


def alike(found, expected):
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9 * theirs.abs().max().item())


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("gradient", ops.GRADIENTS)
def test_logits_and_gradients_are_those_of_the_hooks(problem, random_masks, share, gradient):
    network, groups, x, labels = problem
    masks = {n: m.double() for n, m in random_masks(groups, 3, share).items()}
    margins = {n: m.double() for n, m in random_masks(groups, 4, 0.3).items()}
    plan = plan_of(network, groups)
    assert plan is not None and sum(isinstance(s, Layer) for s in plan.steps) == sum(
        isinstance(m, (nn.Conv2d, nn.Linear)) for m in network.modules()
    )
    expected = run(with_hooks(network, groups), masks, x, labels)
    found = run(
        lambda leaves, image: masked_forward(network, groups, leaves, image, gradient, margins),
        masks,
        x,
        labels,
    )
    if gradient != "exact":
        flat, margin = groups.join(masks), groups.join(margins)
        expected = (
            *expected[:2],
            expected[2] * (flat if gradient == "kept" else torch.maximum(flat, margin)),
        )
    alike(found, expected)


@pytest.mark.parametrize("gradient", ops.GRADIENTS)
def test_a_group_that_keeps_nothing_is_that_of_the_hooks(problem, random_masks, gradient):
    network, groups, x, labels = problem
    masks = {n: m.double() for n, m in random_masks(groups, 3, 0.5).items()}
    empty = list(masks)[len(masks) // 2]
    masks[empty] = torch.zeros_like(masks[empty])
    nobody = {n: torch.zeros_like(m) for n, m in masks.items()}
    kept = {n: int(m.sum()) for n, m in masks.items()}
    widths = {n: g.width for n, g in groups.items()}
    logits, image, scores = run(with_hooks(network, groups), masks, x, labels)
    expected = logits, image, scores if gradient == "exact" else scores * groups.join(masks)
    forward = partial(masked_forward, network, groups, gradient=gradient)
    alike(run(partial(forward, margins=nobody), masks, x, labels), expected)
    if gradient != "margin":
        capacity = capacity_for(kept, widths)
        alike(run(partial(forward, capacity=capacity), masks, x, labels), expected)


@pytest.mark.parametrize("gradient", ["exact", "kept"])
def test_with_a_capacity_for_more_channels_than_are_kept_nothing_changes(
    problem, random_masks, gradient
):
    network, groups, x, labels = problem
    masks = {n: m.double() for n, m in random_masks(groups, 3, 0.4).items()}
    capacity = capacity_for(
        {n: int(m.sum()) for n, m in masks.items()},
        {n: g.width for n, g in groups.items()},
        slack=9,
    )
    assert all(
        masks[n].sum() < size <= groups[n].width
        for n, size in capacity.items()
        if groups[n].width > 40
    )
    orders = {n: torch.argsort(m, descending=True, stable=True) for n, m in masks.items()}
    expected = run(
        lambda leaves, image: masked_forward(network, groups, leaves, image, gradient),
        masks,
        x,
        labels,
    )
    for known in (None, orders):
        forward = partial(
            masked_forward, network, groups, gradient=gradient, capacity=capacity, orders=known
        )
        alike(run(forward, masks, x, labels), expected)


def _the(kernels):
    return kernels


def test_a_classifier_that_learns_gets_its_gradient(networks, random_masks):
    network, groups = networks("resnet18")
    network = copy.deepcopy(network).requires_grad_(False)
    masks = {n: m.float() for n, m in random_masks(groups, 3, 0.5).items()}
    network.fc.requires_grad_(True)
    x, found = torch.randn(4, 3, 32, 32), []
    for implementation in ("reference", "compiled"):
        kernels = ops.kernels.Kernels(("cpu",) if implementation == "compiled" else (), "")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ops.kernels, "chosen", partial(_the, kernels))
            leaves = {n: m.clone().requires_grad_() for n, m in masks.items()}
            masked_forward(network, groups, leaves, x).square().mean().backward()
        found.append(
            (
                network.fc.weight.grad.clone(),
                network.fc.bias.grad.clone(),
                groups.join({n: leaf.grad for n, leaf in leaves.items()}),
            )
        )
        network.fc.zero_grad()
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * other.abs().max().item())


def test_networks_without_a_plan_run_with_hooks(networks, random_masks):
    network, groups = networks("resnext50_32x4d")
    network = copy.deepcopy(network).requires_grad_(False)
    assert plan_of(network, groups) is None
    masks = {n: m.float().requires_grad_() for n, m in random_masks(groups, 3, 0.5).items()}
    masked_forward(network, groups, masks, torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(m.grad is not None for m in masks.values())


def test_stored_statistics_and_modes_are_left_alone(networks, random_masks):
    network, groups = networks("resnet18")
    network = copy.deepcopy(network).requires_grad_(False).train()
    before = copy.deepcopy(network.state_dict())
    masked_forward(network, groups, random_masks(groups, 3, 0.5), torch.randn(2, 3, 32, 32))
    assert (
        all(torch.equal(t, before[n]) for n, t in network.state_dict().items()) and network.training
    )


@pytest.mark.parametrize(
    "gradient, word", [("some", "choose one of"), ("margin", "margins are not given")]
)
def test_an_unknown_gradient_is_refused(networks, random_masks, gradient, word):
    network, groups = networks("resnet18")
    with pytest.raises(KernelError, match=word):
        masked_forward(
            network, groups, random_masks(groups, 3, 0.5), torch.randn(2, 3, 32, 32), gradient
        )
