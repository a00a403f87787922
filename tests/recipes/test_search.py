"""Stage 1: the warm start, the search over source tasks, and the tuning of a prompt."""

import pytest
import torch

from pass_transfer.backbones import BackboneSpec, build_backbone, find_groups
from pass_transfer.baselines import group_l1
from pass_transfer.errors import DivergedError
from pass_transfer.hypernet import Hypernet, HypernetConfig, standardise
from pass_transfer.network import Network
from pass_transfer.prompts import Prompt
from pass_transfer.recipes.masked_loss import PromptGradient
from pass_transfer.recipes.match_importance import match_importance
from pass_transfer.recipes.search import SearchConfig, SearchStage, search
from pass_transfer.recipes.tune_prompt import PromptConfig, tune
from pass_transfer.recipes.warm_start import targets_of, warm_start
from pass_transfer.tasks import load_task
from pass_transfer.training import RunFolder, choose_runtime

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
    net = Hypernet(HypernetConfig(hidden=16, pooled=16, **shape), backbone, groups, standardise(group_l1(backbone, groups, SIDE)))
    return Network(backbone, spec.mean, spec.std), net


def test_joined_gradients_weigh_both_roles_of_a_prompt_equally_whatever_their_size():
    prompt = Prompt(size=SIDE, pad=3)
    inside = prompt.border.expand(3, -1, -1)
    roles = PromptGradient(prompt, image_share=0.5)
    draw = torch.Generator().manual_seed(0)
    image, condition = torch.randn(3, SIDE, SIDE, generator=draw), torch.randn(3, SIDE, SIDE, generator=draw)
    ((roles.as_image * 1e4 * image).sum() + (roles.as_condition * 1e-4 * condition).sum()).backward()
    roles.join()

    def unit(gradient):
        values = gradient[inside.bool()]
        return gradient * inside / values.square().mean().sqrt()

    assert torch.allclose(prompt.values.grad, 0.5 * unit(image) + 0.5 * unit(condition), atol=1e-4)


def test_after_the_warm_start_each_prompt_gives_its_own_tasks_scores():
    _, net = parts(correction=3.0)
    prompts = [Prompt(size=SIDE, pad=3, seed=n) for n in range(3)]
    draw = torch.Generator().manual_seed(1)
    importance = [{n: torch.rand(g.width, generator=draw) for n, g in net.groups.items()} for _ in prompts]
    targets = targets_of(net, importance)
    rows = warm_start(net, prompts, targets, steps=200, seed=0)
    assert rows[-1]["error"] < rows[0]["error"]
    scores = torch.stack([net(p.frame()).detach() for p in prompts])
    distance = torch.cdist(scores, targets)
    assert distance.argmin(1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_targets_blend_prior_and_importance(share):
    _, net = parts(importance=share)
    importance = [{n: torch.rand(g.width) for n, g in net.groups.items()}]
    own = net.groups.join(standardise(importance[0]))
    assert torch.allclose(targets_of(net, importance)[0], own.float() if share else net.prior, atol=1e-6)


def test_a_search_leaves_the_backbone_alone_and_changes_hypernetwork_and_prompts(digits, runtime):
    network, net = parts()
    before = {n: t.clone() for n, t in network.state_dict().items()}
    start = {n: t.clone() for n, t in net.state_dict().items()}
    sources, prompts = search(net, network, digits, SearchConfig(steps=3, tasks=2, batch_size=16, warm_steps=2, importance_images=32), runtime)
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    assert any(not torch.equal(t, start[n]) for n, t in net.state_dict().items())
    assert len(sources) == len(prompts) == 2
    assert not torch.equal(prompts[0].values, Prompt(size=SIDE, pad=prompts[0].pad, seed=0).values)


def test_a_search_step_computes_no_gradient_for_the_backbone(digits, runtime):
    network, net = parts()
    stage = SearchStage(net, network, digits, SearchConfig(tasks=2, batch_size=8), runtime)
    pixels, labels = digits.train.__getitems__(list(range(8)))
    stage.pools = [torch.arange(8).numpy()] * 2
    stage.step(pixels, labels.clamp(max=max(stage.sources[0].classes)), torch.Generator().manual_seed(0), 0)
    assert all(p.grad is None for p in network.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_a_resumed_search_ends_where_an_uninterrupted_one_does(digits, runtime, tmp_path):
    config = SearchConfig(steps=6, rows=2, tasks=2, batch_size=4, warm_steps=3, importance_images=16)
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
    search(fresh, network, digits, config, runtime, RunFolder(tmp_path / "b", {"recipe": "search"}, resume=True))
    assert all(torch.equal(t, whole.state_dict()[n]) for n, t in fresh.state_dict().items())


def test_tuning_moves_only_the_prompt(digits, runtime):
    network, net = parts()
    prompt = Prompt(size=SIDE, pad=3, seed=0)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    backbone = {n: t.clone() for n, t in network.backbone.state_dict().items() if not n.startswith("fc")}
    start = prompt.values.detach().clone()
    tune(net, network, prompt, digits, PromptConfig(steps=5, batch_size=16, match_steps=3, match_images=32), runtime, starts=[Prompt(size=SIDE, pad=3, seed=n) for n in (0, 1)])
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert all(torch.equal(t, network.backbone.state_dict()[n]) for n, t in backbone.items())
    assert not torch.equal(prompt.values, start)
    assert torch.equal(prompt.frame()[:, 3:-3, 3:-3], torch.zeros(3, SIDE - 6, SIDE - 6))


def test_matching_takes_the_nearest_start_and_brings_a_prompt_nearer_to_its_target():
    _, net = parts(correction=3.0)
    prompts = [Prompt(size=SIDE, pad=3, seed=n) for n in range(3)]
    draw = torch.Generator().manual_seed(1)
    importance = [{n: torch.rand(g.width, generator=draw) for n, g in net.groups.items()} for _ in prompts]
    targets = targets_of(net, importance)
    warm_start(net, prompts, targets, steps=200, seed=0)
    net.requires_grad_(False)
    tuned = Prompt(size=SIDE, pad=3, seed=7)
    target = 0.5 * targets[1] + 0.5 * targets[2]

    def error(prompt):
        return (net(prompt.frame().detach()) - target).square().mean().item()

    left = match_importance(net, tuned, target, 60, prompts)
    assert left == pytest.approx(error(tuned), rel=1e-4)
    assert left < min(error(p) for p in prompts)
    assert torch.equal(tuned.frame()[:, 3:-3, 3:-3], torch.zeros(3, SIDE - 6, SIDE - 6))


def test_a_loss_that_is_no_number_is_refused(digits, runtime):
    network, net = parts()
    with torch.no_grad():
        network.backbone.conv1.weight.fill_(float("nan"))
    with pytest.raises((DivergedError, ValueError)):
        tune(net, network, Prompt(size=SIDE, pad=3), digits, PromptConfig(steps=5, batch_size=16, match_steps=0), runtime)
