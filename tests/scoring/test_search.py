"""Stage 1: the prior, the search over source tasks, and the tuning of a prompt."""

import pytest
import torch

from pass_transfer.errors import DivergedError
from pass_transfer.networks import BackboneSpec, build_backbone, find_groups
from pass_transfer.networks.network import Network
from pass_transfer.prompts import Prompt
from pass_transfer.scoring.hypernet import Hypernet, HypernetConfig
from pass_transfer.scoring.magnitude import group_l1
from pass_transfer.scoring.masked_loss import PromptGradient
from pass_transfer.scoring.prior import standardise
from pass_transfer.scoring.prompt_tuning import PromptConfig, TunePromptStage, tune
from pass_transfer.scoring.search import SearchConfig, SearchStage, search
from pass_transfer.scoring.source_prior import mean_importance
from pass_transfer.scoring.source_tasks import SourceTask
from pass_transfer.tasks import load_task
from pass_transfer.training import LoopConfig, RunFolder, choose_runtime, run_stage

SIDE = 32


@pytest.fixture(scope="module")
def runtime():
    return choose_runtime("cpu", "no")


@pytest.fixture(scope="module")
def digits():
    return load_task("digits", SIDE)


def parts(seed=0, **shape):
    """A random ResNet-18 for digits, as a network, and a hypernetwork for it."""
    torch.manual_seed(seed)
    spec = BackboneSpec("resnet18", 10, SIDE)
    backbone = build_backbone(spec).eval()
    groups = find_groups(backbone, SIDE)
    net = Hypernet(
        HypernetConfig(hidden=16, pooled=16, **shape),
        backbone,
        groups,
        standardise(group_l1(backbone, groups, SIDE)),
    )
    return Network(backbone, spec.mean, spec.std), net


def test_joined_gradients_weigh_both_roles_of_a_prompt_equally_whatever_their_size():
    prompt = Prompt(size=SIDE, pad=3)
    inside = prompt.border.expand(3, -1, -1)
    roles = PromptGradient(prompt, image_share=0.5)
    draw = torch.Generator().manual_seed(0)
    image, condition = (
        torch.randn(3, SIDE, SIDE, generator=draw),
        torch.randn(3, SIDE, SIDE, generator=draw),
    )
    (
        (roles.as_image * 1e4 * image).sum() + (roles.as_condition * 1e-4 * condition).sum()
    ).backward()
    roles.join()

    def unit(gradient):
        values = gradient[inside.bool()]
        return gradient * inside / values.square().mean().sqrt()

    assert torch.allclose(prompt.values.grad, 0.5 * unit(image) + 0.5 * unit(condition), atol=1e-4)


def test_the_mean_importance_of_source_tasks_is_that_of_their_standardised_importances(
    digits, runtime
):
    network, net = parts()
    sources = [SourceTask("low", (0, 1, 2)), SourceTask("high", (5, 7, 9), "half")]
    each = [
        mean_importance(network, net.groups, digits, [s], runtime, 32, seed)
        for s, seed in zip(sources, (3, 4))
    ]
    both = mean_importance(network, net.groups, digits, sources, runtime, 32, 3)
    for name in net.groups:
        assert torch.allclose(both[name], (each[0][name] + each[1][name]) / 2)
        assert not torch.equal(each[0][name], each[1][name])


def test_a_search_leaves_the_backbone_alone_and_changes_hypernetwork_and_prompts(digits, runtime):
    network, net = parts()
    before = {n: t.clone() for n, t in network.state_dict().items()}
    start = {n: t.clone() for n, t in net.state_dict().items()}
    prompt = search(net, network, digits, SearchConfig(steps=3, tasks=2, batch_size=16), runtime)
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    assert any(not torch.equal(t, start[n]) for n, t in net.state_dict().items())
    assert not torch.equal(prompt.values, Prompt(size=SIDE, pad=prompt.pad, seed=0).values)


def test_a_search_step_computes_no_gradient_for_the_backbone(digits, runtime):
    network, net = parts()
    stage = SearchStage(net, network, digits, SearchConfig(tasks=2, batch_size=8), runtime)
    pixels, labels = digits.train.__getitems__(list(range(8)))
    stage.pools = [torch.arange(8).numpy()] * 2
    stage.step(
        pixels, labels.clamp(max=max(stage.sources[0].classes)), torch.Generator().manual_seed(0), 0
    )
    assert all(p.grad is None for p in network.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_a_resumed_search_ends_where_an_uninterrupted_one_does(digits, runtime, tmp_path):
    config = SearchConfig(steps=6, rows=2, tasks=2, batch_size=4)
    network, whole = parts()
    search(whole, network, digits, config, runtime, RunFolder(tmp_path / "a", {"recipe": "search"}))

    class Stop(Exception):
        pass

    network, cut = parts()
    run = RunFolder(tmp_path / "b", {"recipe": "search"})
    save = run.save_checkpoint

    def save_once(name, state):
        save(name, state)
        raise Stop

    run.save_checkpoint = save_once
    with pytest.raises(Stop):
        search(cut, network, digits, config, runtime, run)
    network, fresh = parts()
    search(
        fresh,
        network,
        digits,
        config,
        runtime,
        RunFolder(tmp_path / "b", {"recipe": "search"}, resume=True),
    )
    assert all(torch.equal(t, whole.state_dict()[n]) for n, t in fresh.state_dict().items())


def test_tuning_moves_only_the_prompt(digits, runtime):
    network, net = parts()
    prompt = Prompt(size=SIDE, pad=3, seed=0)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    backbone = {
        n: t.clone() for n, t in network.backbone.state_dict().items() if not n.startswith("fc")
    }
    start = prompt.values.detach().clone()
    tune(net, network, prompt, digits, PromptConfig(steps=5, batch_size=16), runtime)
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert all(torch.equal(t, network.backbone.state_dict()[n]) for n, t in backbone.items())
    assert not torch.equal(prompt.values, start)
    assert torch.equal(prompt.frame()[:, 3:-3, 3:-3], torch.zeros(3, SIDE - 6, SIDE - 6))


@pytest.mark.parametrize("mapping", ["frequency", "iterative"])
def test_tuning_under_a_label_mapping_uses_rows_of_the_source_classifier(digits, runtime, mapping):
    network, net = parts()
    prompt = Prompt(size=SIDE, pad=3, seed=0)
    mapped = []

    class Watched(TunePromptStage):
        def _map(self):
            super()._map()
            mapped.append(self.head.weight.clone())

    stage = Watched(net, network, prompt, digits, mapping, PromptConfig(steps=4), runtime)
    run_stage(stage, digits.train, LoopConfig(2, 16, steps_per_epoch=2), runtime)
    assert len(mapped) == (2 if mapping == "iterative" else 1)
    source = network.backbone.fc.weight
    for weight in mapped:
        assert sorted(weight.tolist()) == sorted(source.tolist()), (
            "ten classes take each of ten rows once"
        )
    assert torch.equal(stage.head.weight, mapped[-1]), "a mapped classifier does not learn"


def test_a_loss_that_is_no_number_is_refused(digits, runtime):
    network, net = parts()
    with torch.no_grad():
        network.backbone.conv1.weight.fill_(float("nan"))
    with pytest.raises((DivergedError, ValueError)):
        tune(
            net,
            network,
            Prompt(size=SIDE, pad=3),
            digits,
            PromptConfig(steps=5, batch_size=16),
            runtime,
        )
