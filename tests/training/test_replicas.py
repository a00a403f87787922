import copy
import gc
import threading

import pytest
import torch
from torch import nn

from pass_transfer.networks.network import Network
from pass_transfer.shrinking.finetune import FinetuneConfig, finetune
from pass_transfer.training import RunFolder
from pass_transfer.training.replicas import IMAGES_LEAST, Replicas


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def work(network, images, labels):
    logits = network(images)
    return nn.functional.cross_entropy(logits, labels), logits


def batch(count):
    draw = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, 16, 16, generator=draw), torch.randint(5, (count,), generator=draw)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("images", [1, 2, 12, 13])
def test_without_batch_statistics_the_gradient_is_that_of_the_whole_batch(little, count, images):
    little.eval()
    loss, logits = work(little, *batch(images))
    expected = torch.autograd.grad(loss, list(little.parameters()))
    mean, values = Replicas(little, count).backward(work, *batch(images))
    torch.testing.assert_close(mean, loss.detach())
    torch.testing.assert_close(values, logits.detach())
    for parameter, gradient in zip(little.parameters(), expected):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-5)


def test_statistics_are_the_mean_of_the_parts(little):
    little.train()
    halves = [copy.deepcopy(little) for _ in range(2)]
    images, labels = batch(12)
    for half, part in zip(halves, images.chunk(2)):
        half(part)
    Replicas(little, 2).backward(work, images, labels)
    for name, buffer in little.named_buffers():
        expected = torch.stack([dict(half.named_buffers())[name].double() for half in halves]).mean(
            0
        )
        torch.testing.assert_close(buffer.double(), expected, msg=name)


def test_twins_follow_the_networks_weights_and_statistics(little):
    replicas = Replicas(little.train(), 2)
    replicas.backward(work, *batch(12))
    with torch.no_grad():
        little.conv1.weight.mul_(2)
        little.bn1.running_mean.add_(1)
    little.eval()
    _, logits = replicas.backward(work, *batch(12))
    torch.testing.assert_close(logits, little(batch(12)[0]).detach())


def test_frozen_and_unused_parameters(little):
    little.unused = nn.Parameter(torch.ones(3))
    little.conv1.requires_grad_(False)
    Replicas(little.eval(), 2).backward(work, *batch(8))
    assert (
        little.conv1.weight.grad is None
        and little.unused.grad.eq(0).all()
        and little.conv2.weight.grad.any()
    )


def test_it_is_the_same_every_time(little):
    found = []
    for _ in range(3):
        network = copy.deepcopy(little).train()
        Replicas(network, 3).backward(work, *batch(13))
        found.append([p.grad for p in network.parameters()] + list(network.buffers()))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other))


def test_its_threads_end_with_it(little):
    replicas = Replicas(little.eval(), 3)
    replicas.backward(work, *batch(12))
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("replica")]
    assert threads
    del replicas
    gc.collect()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_in_a_part_is_raised_and_the_number_of_threads_is_as_before(
    little, two_threads, failing
):
    images, labels = batch(8)

    def fail(network, images, labels):
        if torch.equal(images, batch(8)[0].chunk(2)[failing]):
            raise ValueError("in a part")
        return work(network, images, labels)

    replicas = Replicas(little.eval(), 2)
    with pytest.raises(ValueError, match="in a part"):
        replicas.backward(fail, images, labels)
    assert torch.get_num_threads() == 2
    replicas.backward(work, images, labels)


def test_there_is_one_a_thread_where_the_batch_is_large_enough(little, cpu, two_threads):
    assert Replicas.fitting(little, cpu, 2 * IMAGES_LEAST - 1) is None
    assert len(Replicas.fitting(little, cpu, 2 * IMAGES_LEAST).networks) == 2
    torch.set_num_threads(8)
    replicas = Replicas.fitting(little, cpu, 4 * IMAGES_LEAST)
    assert len(replicas.networks) == 4 and replicas.threads == 2
    torch.set_num_threads(1)
    assert Replicas.fitting(little, cpu, 512) is None


def test_a_resumed_run_ends_the_same(little, digits, cpu, two_threads, tmp_path):
    def network():
        return Network(copy.deepcopy(little), (0.5,) * 3, (0.25,) * 3)

    recipe = FinetuneConfig(epochs=2, batch_size=64)
    assert IMAGES_LEAST * 2 <= recipe.batch_size
    whole, halted = network(), network()
    finetune(whole, digits, recipe, cpu)
    save = RunFolder.save_checkpoint

    class Stopped(Exception):
        pass

    def save_and_stop(self, name, state):
        save(self, name, state)
        raise Stopped

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(RunFolder, "save_checkpoint", save_and_stop)
        finetune(halted, digits, recipe, cpu, RunFolder(tmp_path / "run", {"recipe": "test"}))
    resumed = network()
    folder = RunFolder(tmp_path / "run", {"recipe": "test"}, resume=True)
    finetune(resumed, digits, recipe, cpu, folder)
    expected = whole.state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in resumed.state_dict().items())
