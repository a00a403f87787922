import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pass_transfer.errors import DivergedError
from pass_transfer.networks.network import Network
from pass_transfer.training import LoopConfig, RunFolder, Stage, evaluate, run_stage, to_images
from pass_transfer.training.augmentation import augment
from pass_transfer.training.loop import learning_rate_factor

CONFIG = {"recipe": "test"}


class Classify(Stage):
    """Trains a network on the digits; `stop` raises after so many steps of this process."""

    name = "classify"

    def __init__(self, backbone, task, cpu, stop: int | None = None, error: type = RuntimeError):
        self.network = Network(copy.deepcopy(backbone), (0.5,) * 3, (0.25,) * 3)
        self.task, self.runtime = task, cpu
        self.modules = {"network": self.network}
        self.optimizers = {
            "adam": torch.optim.Adam(self.network.parameters(), 0.01),
            "sgd": torch.optim.SGD(self.network.backbone.fc.parameters(), 0.01, momentum=0.9),
        }
        self.left, self.error, self.rates, self.held_out = stop, error, [], None

    def start_epoch(self, epoch: int, step: int) -> None:
        self.network.train()

    def step(self, pixels, labels, draw, number):
        if self.left == 0:
            raise self.error
        self.left = None if self.left is None else self.left - 1
        self.rates.append(self.optimizers["adam"].param_groups[0]["lr"])
        images = to_images(augment(pixels, draw, False), self.runtime.device)
        dropped = nn.functional.dropout(images, 0.001)  # as a layer of the network may
        loss = nn.functional.cross_entropy(self.network(dropped), labels)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers.values():
            optimizer.step()
        return {"loss": loss.item()}

    def evaluate(self):
        self.network.eval()
        accuracy = evaluate(self.network, self.task.held_out, self.runtime)
        if self.held_out:
            return self.held_out.pop(0)
        return {"top1": accuracy.top1, "loss": accuracy.loss}


def plain(rows: list[dict]) -> list[dict]:
    """Rows without the time that they took."""
    kept = [dict(row) for row in rows]
    for row in kept:
        row.pop("seconds", None)
    return kept


def assert_same_weights(one: Stage, two: Stage) -> None:
    actual, expected = one.network.state_dict(), two.network.state_dict()
    assert all(torch.equal(actual[n], t) for n, t in expected.items())


LOOP = LoopConfig(epochs=2, batch_size=64, seed=3)


@pytest.fixture
def straight(little, digits, cpu):
    """Two epochs without a break: (stage, rows)."""
    stage = Classify(little, digits, cpu)
    return stage, run_stage(stage, digits.train, LOOP, cpu)


def test_the_network_learns(straight, little, digits, cpu):
    _, rows = straight
    assert rows[1]["train_loss"] < rows[0]["train_loss"] < math.log(10)
    assert rows[1]["held_out_top1"] > 30
    assert [r["epoch"] for r in rows] == [1, 2] and all(r["seconds"] >= 0 for r in rows)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(straight, little, digits, cpu):
    stage, rows = straight
    torch.manual_seed(77)
    again, other = Classify(little, digits, cpu), Classify(little, digits, cpu)
    assert plain(run_stage(again, digits.train, LOOP, cpu)) == plain(rows)
    run_stage(other, digits.train, LoopConfig(epochs=2, batch_size=64, seed=4), cpu)
    assert_same_weights(again, stage)
    assert not torch.equal(other.network.backbone.fc.weight, stage.network.backbone.fc.weight)


@pytest.mark.parametrize("stop", [20, 25])
def test_a_run_that_died_continues_to_the_same_weights_bit_by_bit(
    straight, little, digits, cpu, tmp_path, stop
):
    stage, rows = straight
    assert len(digits.train) // 64 == 20, (
        "a stop after 20 steps is between the epochs, one after 25 within the second"
    )
    dying = Classify(little, digits, cpu, stop)
    with pytest.raises(RuntimeError):
        run_stage(dying, digits.train, LOOP, cpu, RunFolder(tmp_path / "run", CONFIG))
    run = RunFolder(tmp_path / "run", CONFIG, resume=True)
    torch.manual_seed(77)
    second = Classify(little, digits, cpu)
    assert plain(run_stage(second, digits.train, LOOP, cpu, run)) == plain(rows)
    assert_same_weights(second, stage)
    assert plain(run.metrics()) == plain(rows)


def test_a_checkpoint_within_an_epoch_continues_bit_by_bit(
    straight, little, digits, cpu, tmp_path, monkeypatch
):
    from pass_transfer.training import loop

    stage, rows = straight
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)  # after every step
    dying = Classify(little, digits, cpu, 27)
    with pytest.raises(RuntimeError):
        run_stage(dying, digits.train, LOOP, cpu, RunFolder(tmp_path / "run", CONFIG))
    run = RunFolder(tmp_path / "run", CONFIG, resume=True)
    second = Classify(little, digits, cpu)
    resumed = run_stage(second, digits.train, LOOP, cpu, run)
    assert len(second.rates) == 13, "27 of 40 steps were done"
    assert plain(resumed) == [pytest.approx(row) for row in plain(rows)]
    assert_same_weights(second, stage)


def test_a_finished_stage_is_not_trained_again(straight, little, digits, cpu, tmp_path):
    run = RunFolder(tmp_path / "run", CONFIG)
    rows = run_stage(Classify(little, digits, cpu), digits.train, LOOP, cpu, run)
    again = Classify(little, digits, cpu, stop=0)
    resumed = RunFolder(tmp_path / "run", CONFIG, resume=True)
    assert run_stage(again, digits.train, LOOP, cpu, resumed) == rows
    assert_same_weights(again, straight[0])


def test_resuming_keeps_the_rows_of_other_stages(little, digits, cpu, tmp_path):
    run = RunFolder(tmp_path / "run", CONFIG)
    run_stage(Classify(little, digits, cpu), digits.train, LOOP, cpu, run)
    run.log({"stage": "dense", "epoch": 1})
    run = RunFolder(tmp_path / "run", CONFIG, resume=True)
    run_stage(Classify(little, digits, cpu), digits.train, LOOP, cpu, run)
    assert [(r["stage"], r["epoch"]) for r in run.metrics()] == [
        ("classify", 1),
        ("classify", 2),
        ("dense", 1),
    ]


def test_the_best_epoch_is_kept(little, digits, cpu):
    short, long = Classify(little, digits, cpu), Classify(little, digits, cpu)
    long.held_out = [{"top1": 10.0}, {"top1": 90.0}, {"top1": 90.0}, {"top1": 20.0}]
    weights = []
    real = long.evaluate
    long.evaluate = lambda: weights.append(copy.deepcopy(long.network.state_dict())) or real()
    run_stage(long, digits.train, LoopConfig(4, 64, steps_per_epoch=2), cpu)
    assert all(torch.equal(t, weights[2][n]) for n, t in long.network.state_dict().items()), (
        "the later of equal ones"
    )
    short.evaluate = lambda: {}
    run_stage(short, digits.train, LoopConfig(2, 64, steps_per_epoch=2), cpu)
    assert short.network.backbone.bn1.num_batches_tracked == 4, (
        "a stage that does not select ends as it ends"
    )


def test_the_state_before_the_first_epoch_is_kept_where_no_epoch_is_as_good(
    little, digits, cpu, tmp_path, capsys
):
    stage = Classify(little, digits, cpu)
    start = copy.deepcopy(stage.network.state_dict())
    stage.held_out = [{"top1": 89.9}, {"top1": 60.0}]
    run_stage(
        stage,
        digits.train,
        LoopConfig(2, 64, steps_per_epoch=2),
        cpu,
        RunFolder(tmp_path / "run", CONFIG),
        start_top1=90.0,
    )
    assert all(torch.equal(t, start[n]) for n, t in stage.network.state_dict().items())
    assert (
        "no epoch is as good as the network was before the first one (90.0 %"
        in capsys.readouterr().err
    )
    again = Classify(little, digits, cpu, stop=0)
    run_stage(
        again,
        digits.train,
        LoopConfig(2, 64, steps_per_epoch=2),
        cpu,
        RunFolder(tmp_path / "run", CONFIG, resume=True),
    )
    assert all(torch.equal(t, start[n]) for n, t in again.network.state_dict().items()), (
        "a resumed run knows it from its checkpoint"
    )
    better = Classify(little, digits, cpu)
    better.held_out = [{"top1": 90.0}, {"top1": 20.0}]
    run_stage(better, digits.train, LoopConfig(2, 64, steps_per_epoch=2), cpu, start_top1=90.0)
    assert better.network.backbone.bn1.num_batches_tracked == 2, "the later of equal ones"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run(little, digits, cpu, bad):
    stage = Classify(little, digits, cpu)
    real = stage.step
    stage.step = lambda *a: real(*a) | ({"loss": bad} if a[-1] == 2 else {})
    with pytest.raises(DivergedError, match="classify: loss is .* in epoch 1, step 3.*lr"):
        run_stage(stage, digits.train, LOOP, cpu)


def test_a_held_out_loss_that_is_no_number_stops_the_run_too(little, digits, cpu, tmp_path):
    stage = Classify(little, digits, cpu)
    stage.held_out = [{"top1": 10.0, "loss": float("nan")}]
    with pytest.raises(DivergedError, match="classify: .*loss is nan in epoch 1"):
        run_stage(
            stage,
            digits.train,
            LoopConfig(1, 64, steps_per_epoch=2),
            cpu,
            RunFolder(tmp_path / "run", CONFIG),
        )


def test_a_shorter_epoch_has_as_many_steps_as_asked_for(little, digits, cpu):
    stage = Classify(little, digits, cpu)
    run_stage(stage, digits.train, LoopConfig(3, 64, steps_per_epoch=4), cpu)
    assert len(stage.rates) == 12


def test_the_learning_rate_rises_to_its_peak_and_falls_to_nothing(little, digits, cpu):
    stage = Classify(little, digits, cpu)
    run_stage(stage, digits.train, LoopConfig(5, 64, warmup=0.2, steps_per_epoch=10), cpu)
    rates = stage.rates
    assert rates[0] == 0 and max(rates) == rates[10] == pytest.approx(0.01)
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert (
        rates[5] == pytest.approx(0.005) and rates[30] == pytest.approx(0.005) and rates[-1] < 1e-4
    )


def test_learning_rate_without_warmup_starts_at_its_peak():
    assert learning_rate_factor(0.0, 0.0) == 1 and learning_rate_factor(1.0, 0.0) == pytest.approx(
        0
    )
    assert learning_rate_factor(1.0, 1.0) == 1


@given(
    steps=st.integers(1, 2000),
    images=st.integers(2, 5000),
    batch_size=st.integers(2, 256),
    rows=st.integers(1, 20),
)
def test_a_number_of_steps_is_made_whatever_the_number_of_images(steps, images, batch_size, rows):
    loop = LoopConfig.of_steps(steps, images, batch_size, rows=rows)
    whole = images // loop.batch_size
    assert loop.steps_per_epoch <= whole and loop.batch_size <= images
    assert steps <= loop.epochs * loop.steps_per_epoch < steps + loop.epochs
    assert loop.epochs >= min(rows, steps)
