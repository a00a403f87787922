"""Small networks and tasks that many tests share. Nothing here touches the user's own cache."""

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image
from torch import nn

from pass_transfer.cli.main import run as command_line
from pass_transfer.masks import ChannelMasks
from pass_transfer.networks import BackboneSpec, build_backbone, find_groups
from pass_transfer.prompts import Prompt
from pass_transfer.scoring.hypernet import Hypernet, HypernetConfig
from pass_transfer.scoring.magnitude import group_l1
from pass_transfer.scoring.prior import standardise
from pass_transfer.tasks import load_task
from pass_transfer.training import choose_runtime
from pass_transfer.zoo.entry import EntryNotes, save_entry

SIDE = 32
CLASSES = 10

settings.register_profile(
    "suite",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("suite")


# Files whose tests run whole commands, train networks or compile; make check leaves them out.
SLOW = {
    "cli": (
        "again bench build command data_verbs dense_first distill documents export few_images hub "
        "image_size inspect making_an_entry methods named_network no_network own_backbone package "
        "prior processes refusals report results set_up single_weights stopping study"
    ),
    "masking": "forward",
    "networks": "architectures checkpoints named removal",
    "recipes": "pipeline prune",
    "report": "browser commands run_report",
    "scoring": "search sparse_training transformers",
    "shrinking": "classifier distill reconstruct shrink",
    "tasks": "streaming",
    "training": "processes replicas",
    "": "examples guest mutants pruned",
}
SLOW_FILES = {
    Path(__file__).parent / room / f"test_{name}.py"
    for room, names in SLOW.items()
    for name in names.split()
}


# Rooms whose tests compute otherwise with compiled operators.
COMPILED = {Path(__file__).parent / room for room in ("ops", "masking", "scoring")}


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path in SLOW_FILES:
            item.add_marker(pytest.mark.slow)
        if COMPILED & {*item.path.parents}:
            item.add_marker(pytest.mark.compiled)


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """Decoded tasks go to a folder of this session, never to the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("PASS_TRANSFER_CACHE")
    os.environ["PASS_TRANSFER_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["PASS_TRANSFER_CACHE"]
    else:
        os.environ["PASS_TRANSFER_CACHE"] = before


@pytest.fixture(autouse=True, scope="session")
def quick_latency():
    """Milliseconds are measured in few rounds: what they are is of no interest here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pass_transfer.latency.SECONDS", 0.0)
        yield


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def randomise(network: nn.Module) -> nn.Module:
    """BatchNorm with statistics, weights and biases as training leaves them: all unlike."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return network.eval()


def build(architecture: str, classes: int = CLASSES) -> nn.Module:
    """A network of this architecture with random weights and BatchNorm, the same every time."""
    torch.manual_seed(1)
    return randomise(build_backbone(BackboneSpec(architecture, classes, SIDE)))


@pytest.fixture(scope="session")
def networks():
    """architecture -> (network, its groups); shared, so tests copy before they change anything."""
    made = {}

    def get(architecture: str):
        if architecture not in made:
            network = build(architecture)
            made[architecture] = network, find_groups(network, SIDE)
        return made[architecture]

    return get


@pytest.fixture
def resnet18(networks):
    """A ResNet-18 of one's own, in eval mode."""
    return copy.deepcopy(networks("resnet18")[0])


@pytest.fixture(scope="session")
def groups(networks):
    """The channel groups of `resnet18`."""
    return networks("resnet18")[1]


@pytest.fixture(scope="session")
def random_masks():
    """(groups, seed, density) -> masks that keep at least one unit of each group."""

    def make(groups, number: int, density: float | None = None) -> ChannelMasks:
        draw = torch.Generator().manual_seed(number)
        masks = {}
        for name, group in groups.items():
            share = (
                density
                if density is not None
                else 0.05 + 0.9 * torch.rand((), generator=draw).item()
            )
            mask = torch.rand(group.width, generator=draw) < share
            mask[torch.randint(group.width, (), generator=draw)] = True
            masks[name] = mask
        return ChannelMasks(masks)

    return make


class Little(nn.Module):
    """A network of two convolutions that trains in milliseconds."""

    def __init__(self, classes: int = CLASSES):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1, stride=2, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(images)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def little():
    """A small network of one's own, the same every time."""
    torch.manual_seed(2)
    return Little()


@pytest.fixture(scope="session")
def digits():
    """The digits task at 16 pixels."""
    return load_task("digits", 16)


@pytest.fixture(scope="session")
def cpu():
    """The CPU in float32."""
    return choose_runtime("cpu", "no")


@pytest.fixture
def call(capsys):
    """Arguments -> (exit code, stdout, stderr) of the command line in this process."""

    def run(*arguments):
        capsys.readouterr()
        code = command_line([str(a) for a in arguments])
        return code, *capsys.readouterr()

    return run


def write_entry(folder, seed=0, architecture="resnet18", backbone=None, **shape):
    """A zoo entry of a random backbone, or the given one, and an untrained hypernetwork."""
    torch.manual_seed(seed)
    spec = BackboneSpec(architecture, CLASSES, SIDE)
    backbone = backbone or build_backbone(spec).eval()
    groups = find_groups(backbone, SIDE)
    prior = standardise(group_l1(backbone, groups))
    net = Hypernet(HypernetConfig(**shape), backbone, groups, prior)
    source = {"task": "digits", "class_names": [str(n) for n in range(CLASSES)]}
    prompt = Prompt("additive", SIDE, 3, seed)
    notes = EntryNotes(source, {}, {}, "# for tests\n")
    save_entry(folder, net, backbone.state_dict(), spec, prompt, notes)
    return folder


@pytest.fixture
def own_entry(tmp_path):
    """(architecture, backbone) -> folder of an entry with a small hypernetwork, for one test."""
    shape = {"hidden": 16, "encoder": (4, 8)}
    return lambda architecture, backbone: write_entry(
        tmp_path / "entry", 0, architecture, backbone, **shape
    )


@pytest.fixture(scope="session")
def entries(tmp_path_factory):
    """(seed, architecture, shape) -> folder of an entry; shared, so tests change copies alone."""
    made, root = {}, tmp_path_factory.mktemp("entries")

    def get(seed=0, architecture="resnet18", **shape):
        key = repr((seed, architecture, shape))
        if key not in made:
            made[key] = write_entry(root / str(len(made)), seed, architecture, **shape)
        return made[key]

    return get


@pytest.fixture(scope="session")
def entry(entries):
    """The entry that most tests use."""
    return entries()


@pytest.fixture(scope="session")
def photos():
    """(folder, classes, count, size) -> the folder, with noise images by class."""

    def write(root, classes=("cat", "dog"), count=8, size=20):
        draw = np.random.default_rng(0)
        for name in classes:
            (root / name).mkdir(parents=True)
            for number in range(count):
                noise = draw.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(noise).save(root / name / f"{number}.png")
        return root

    return write


@pytest.fixture(scope="session")
def few_photos(photos, tmp_path_factory):
    """A task of two classes with nine images each to train on: nothing is to be learned."""
    return f"folder:{photos(tmp_path_factory.mktemp('photos') / 'photos', count=12)}"
