"""Several processes that work as one, started by torchrun."""

import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file

from pass_transfer.training.augmentation import augment, resized_crops
from pass_transfer.training.processes import ALONE, Part, Processes

JOB = """
import sys
import torch
from safetensors.torch import save_file
from torch import nn
from pass_transfer.networks.network import Network
from pass_transfer.shrinking.finetune import FinetuneConfig, finetune
from pass_transfer.shrinking.recalibrate import recalibrate
from pass_transfer.preprocessing import Preprocessing
from pass_transfer.tasks import load_task
from pass_transfer.training import choose_runtime, evaluate

whole, out = sys.argv[1] == "whole", sys.argv[2]
runtime = choose_runtime("cpu", "no")
mean, std = (0.5,) * 3, (0.2,) * 3
task = load_task("digits", Preprocessing(16))
torch.manual_seed(0)
layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1)]
layers += [nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
network = Network(nn.Sequential(*layers), mean, std)
config = FinetuneConfig(epochs=1, batch_size=50, lr=0.1, whole_batch=whole)
rows = finetune(network, task, config, runtime)
found = {n: t.double() for n, t in network.state_dict().items() if "num_batches" not in n}
recalibrate(network, task.train, runtime, images=500)
measured = evaluate(network, task.test, runtime)
found |= {f"again.{n}": t.double() for n, t in network.state_dict().items() if "running" in n}
found["predictions"] = measured.predictions.double()
found["top1"] = torch.tensor([rows[-1]["held_out_top1"], measured.top1]).double()
found["train_loss"] = torch.tensor(rows[-1]["train_loss"]).double()
if runtime.processes.first:
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, out)
"""


def run_job(tmp_path, processes, kind):
    script, out = tmp_path / "job.py", tmp_path / f"{kind}-{processes}.safetensors"
    script.write_text(textwrap.dedent(JOB))
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    subprocess.run([*start, str(script), kind, str(out)], check=True, capture_output=True)
    return load_file(out)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run_job(tmp_path_factory.mktemp("alone"), 1, "whole")


@pytest.mark.parametrize("processes", [2, 3])
def test_a_job_on_several_processes_is_the_job_on_one_up_to_the_order_of_sums(
    tmp_path, alone, processes
):
    """Batches of 50 images do not divide by three."""
    found = run_job(tmp_path, processes, "whole")
    assert found.keys() == alone.keys()
    for name, tensor in alone.items():
        scale = tensor.abs().max().clamp(min=1e-6)
        assert (found[name] - tensor).abs().max() <= 1e-4 * scale, name


def test_where_batchnorm_sees_its_own_part_accuracy_is_near(tmp_path, alone):
    found = run_job(tmp_path, 2, "parts")
    assert (found["top1"] - alone["top1"]).abs().max() <= 6  # of 144 and 359 images, an epoch
    weights = [name for name in alone if name.endswith("0.weight") and name[0] != "a"]
    assert any(not torch.equal(found[name], alone[name]) for name in weights)


@pytest.mark.parametrize("count", [2, 3])
def test_what_is_drawn_for_an_image_does_not_depend_on_how_many_share_its_batch(count):
    from pass_transfer.preprocessing import Preprocessing

    pixels = torch.randint(0, 256, (8, 3, 40, 40), dtype=torch.uint8)
    look = Preprocessing(32)
    ways = (
        lambda images, draw, part: augment(images, draw, True, part),
        lambda images, draw, part: resized_crops(images, draw, look, True, part),
    )
    for way in ways:
        draw = torch.Generator().manual_seed(0)
        whole, after = way(pixels, draw, Part()), torch.rand((), generator=draw)
        for rank in range(count):
            part, draw = Part(count, rank, 8), torch.Generator().manual_seed(0)
            assert torch.equal(way(part.of(pixels), draw, part), whole[rank::count])
            assert torch.rand((), generator=draw) == after


def test_parts_weigh_as_many_images_as_they_have():
    weights = [Part(3, rank, 50).weight(len(range(rank, 50, 3))) for rank in range(3)]
    assert sum(weights) == pytest.approx(3)
    assert Part().weight(50) == 1


@pytest.mark.parametrize("count", [1, 2, 5])
def test_batches_are_dealt_out_and_every_one_is_glimpsed(count):
    batches = list(torch.arange(700).split(100))
    everyone = [Processes(count, rank) for rank in range(count)]
    assert sorted(int(b[0]) for p in everyone for b in p.mine(batches)) == list(range(0, 700, 100))
    for processes in everyone:
        shares = processes.shares(batches)
        own = [share.positions for share in shares if share.mine]
        assert [b.tolist() for b in own] == [b.tolist() for b in processes.mine(batches)]
        assert all(len(share.positions) == 2 for share in shares if not share.mine)


def test_a_process_alone_exchanges_nothing():
    sums = torch.ones(3)
    ALONE.add_up([sums])
    ALONE.average([sums, None])
    ALONE.wait()
    assert sums.tolist() == [1, 1, 1]
    assert ALONE.gathered([1, 2]) == [1, 2] and ALONE.as_first(lambda: 7) == 7
