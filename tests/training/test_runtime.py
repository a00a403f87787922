import pytest
import torch

from pass_transfer.errors import UsageError
from pass_transfer.training import choose_runtime


def test_the_choice_is_said_in_words():
    runtime = choose_runtime("cpu", "no")
    assert runtime.device.type == "cpu"
    assert all(word in runtime.reason for word in ("cpu", "float32", "as asked"))


def test_autocast_follows_the_precision():
    layer, x = torch.nn.Linear(4, 4), torch.randn(2, 4)
    with choose_runtime("cpu", "no").autocast():
        assert layer(x).dtype == torch.float32


@pytest.mark.parametrize(
    "arguments, word",
    [({"device": "tpu"}, "auto, cpu, cuda, mps"), ({"precision": "int8"}, "auto, bf16, no")],
)
def test_unknown_names_are_refused_with_the_known_ones(arguments, word):
    with pytest.raises(UsageError, match=word):
        choose_runtime(**arguments)


@pytest.mark.parametrize(
    "device, present",
    [("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())],
)
def test_a_device_that_is_not_there_is_refused(device, present):
    if present:
        pytest.skip(f"this machine has {device}")
    with pytest.raises(UsageError, match="device 'cpu'"):
        choose_runtime(device)
