"""Stage 1: the prior, the search over source tasks, and the tuning of a prompt."""

import pytest
import torch

from pass_transfer.errors import DivergedError
from pass_transfer.networks import BackboneSpec, build_backbone, find_groups
from pass_transfer.networks.network import Network
from pass_transfer.networks.pretrained import PretrainedBackbone
from pass_transfer.prompts import Prompt
from pass_transfer.scoring.hypernet import Hypernet, HypernetConfig
from pass_transfer.scoring.magnitude import group_l1
from pass_transfer.scoring.masked_loss import PromptGradient
from pass_transfer.scoring.method import Context
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.scoring.prior import standardise
from pass_transfer.scoring.prompt_tuning import PromptConfig, TunePromptStage, tune
from pass_transfer.scoring.samples import Samples
from pass_transfer.scoring.search import SearchConfig, SearchStage, search
from pass_transfer.scoring.source_prior import mean_importance
from pass_transfer.scoring.source_tasks import SourceTask
from pass_transfer.shrinking.classifier import with_task_head
from pass_transfer.tasks import load_task
from pass_transfer.training import LoopConfig, RunFolder, choose_runtime, run_stage

SIDE = 32


@pytest.fixture(scope="module")
def runtime():
    return choose_runtime("cpu", "no")


@pytest.fixture(scope="module")
def digits():
    return load_task("digits", SIDE)


SPEC = BackboneSpec("resnet18", 10, SIDE)


def parts():
    """A random ResNet-18 for digits, as a network, and a hypernetwork for it."""
    torch.manual_seed(0)
    backbone = build_backbone(SPEC).eval()
    groups = find_groups(backbone, SIDE)
    prior = standardise(group_l1(backbone, groups))
    net = Hypernet(HypernetConfig(hidden=16, pooled=16), backbone, groups, prior)
    return Network(backbone, SPEC.mean, SPEC.std), net


@pytest.fixture
def hypernet():
    """The same as an entry."""
    network, net = parts()
    dense = PretrainedBackbone(network.backbone, SPEC, net.groups, "random")
    return PretrainedHypernet(net, dense, Prompt(size=SIDE, pad=3, seed=0), {})


@pytest.fixture(scope="module")
def task_network(digits, runtime):
    """The network with a classifier for the digits, which nothing may change."""
    network, _ = parts()
    return with_task_head(network, digits.train, digits.classes, runtime, 0)


def context_of(hypernet, task, runtime, mapping="linear"):
    dense, groups = hypernet.dense, hypernet.groups
    return Context(dense, groups, task, runtime, hypernet, mapping=mapping)


def copied(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def unchanged(module, before):
    return all(torch.equal(t, before[n]) for n, t in module.state_dict().items())


def test_joined_gradients_weigh_both_roles_of_a_prompt_equally_whatever_their_size():
    prompt = Prompt(size=SIDE, pad=3)
    inside = prompt.border.expand(3, -1, -1)
    roles = PromptGradient(prompt, image_share=0.5)
    draw = torch.Generator().manual_seed(0)
    image = torch.randn(3, SIDE, SIDE, generator=draw)
    condition = torch.randn(3, SIDE, SIDE, generator=draw)
    loud = (roles.as_image * 1e4 * image).sum()
    soft = (roles.as_condition * 1e-4 * condition).sum()
    (loud + soft).backward()
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

    def importance(of, seed):
        samples = Samples(digits.train, runtime, 32, seed)
        return mean_importance(network, net.groups, of, samples)

    each = [importance(sources[:1], 3), importance(sources[1:], 4)]
    both = importance(sources, 3)
    for name in net.groups:
        assert torch.allclose(both[name], (each[0][name] + each[1][name]) / 2)
        assert not torch.equal(each[0][name], each[1][name])


def test_a_search_leaves_the_network_alone_and_changes_hypernetwork_and_prompts(
    digits, runtime, task_network
):
    _, net = parts()
    before, start = copied(task_network), copied(net)
    config = SearchConfig(steps=3, tasks=2, batch_size=16)
    prompt = search(net, task_network, digits, config, runtime)
    assert unchanged(task_network, before)
    assert not unchanged(net, start)
    assert not torch.equal(prompt.values, Prompt(size=SIDE, pad=prompt.pad, seed=0).values)


def test_a_search_step_computes_no_gradient_for_the_backbone(digits, runtime, task_network):
    _, net = parts()
    stage = SearchStage(net, task_network, digits, SearchConfig(tasks=2, batch_size=8), runtime)
    pixels, labels = digits.train.__getitems__(list(range(8)))
    stage.pools = [torch.arange(8).numpy()] * 2
    labels = labels.clamp(max=max(stage.sources[0].classes))
    stage.step(pixels, labels, torch.Generator().manual_seed(0), 0)
    learning = {name for name, p in stage.network.named_parameters() if p.grad is not None}
    assert learning == {"backbone.fc.weight", "backbone.fc.bias"}, "the classifier's alone"
    assert all(p.grad is None for p in task_network.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_a_resumed_search_ends_where_an_uninterrupted_one_does(
    digits, runtime, task_network, tmp_path
):
    config = SearchConfig(steps=6, rows=2, tasks=2, batch_size=4)
    _, whole = parts()
    run = RunFolder(tmp_path / "a", {"recipe": "search"})
    search(whole, task_network, digits, config, runtime, run)

    class Stop(Exception):
        pass

    _, cut = parts()
    run = RunFolder(tmp_path / "b", {"recipe": "search"})
    save = run.save_checkpoint

    def save_once(name, state):
        save(name, state)
        raise Stop

    run.save_checkpoint = save_once
    with pytest.raises(Stop):
        search(cut, task_network, digits, config, runtime, run)
    _, fresh = parts()
    run = RunFolder(tmp_path / "b", {"recipe": "search"}, resume=True)
    search(fresh, task_network, digits, config, runtime, run)
    assert unchanged(fresh, whole.state_dict())


def test_tuning_moves_only_the_prompt(digits, runtime, hypernet):
    prompt, context = hypernet.prompt(), context_of(hypernet, digits, runtime)
    before, backbone = copied(hypernet.net), copied(hypernet.dense.module)
    head, start = copied(context.task_network), prompt.values.detach().clone()
    tune(hypernet, prompt, PromptConfig(steps=5, batch_size=16), context)
    assert unchanged(hypernet.net, before)
    assert unchanged(hypernet.dense.module, backbone)
    assert unchanged(context.task_network, head), "importance is measured with it again"
    assert not torch.equal(prompt.values, start)
    assert torch.equal(hypernet.prompt().values, start), "a copy of the entry's was tuned"
    assert torch.equal(prompt.frame()[:, 3:-3, 3:-3], torch.zeros(3, SIDE - 6, SIDE - 6))


@pytest.mark.parametrize("mapping", ["frequency", "iterative"])
def test_tuning_under_a_label_mapping_uses_rows_of_the_source_classifier(
    digits, runtime, hypernet, mapping
):
    mapped = []

    class Watched(TunePromptStage):
        def _map(self):
            super()._map()
            mapped.append(self.head.weight.clone())

    context = context_of(hypernet, digits, runtime, mapping)
    stage = Watched(hypernet, hypernet.prompt(), PromptConfig(steps=4), context)
    run_stage(stage, digits.train, LoopConfig(2, 16, steps_per_epoch=2), runtime)
    assert len(mapped) == (2 if mapping == "iterative" else 1)
    source = hypernet.dense.module.fc.weight
    for weight in mapped:
        rows = sorted(weight.tolist())
        assert rows == sorted(source.tolist()), "ten classes take each of ten rows once"
    assert torch.equal(stage.head.weight, mapped[-1]), "a mapped classifier does not learn"


def test_a_loss_that_is_no_number_is_refused(digits, runtime, hypernet):
    with torch.no_grad():
        hypernet.dense.module.conv1.weight.fill_(float("nan"))
    config, context = PromptConfig(steps=5, batch_size=16), context_of(hypernet, digits, runtime)
    with pytest.raises((DivergedError, ValueError)):
        tune(hypernet, hypernet.prompt(), config, context)
