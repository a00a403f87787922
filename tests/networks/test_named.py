"""A pretrained network by its name: weights as they are found, their preprocessing, and sizes."""

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.data import create_transform, resolve_model_data_config
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import nn
from torchvision.models import get_model, get_model_weights
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from pass_transfer.errors import BackboneError, PassTransferError, UsageError
from pass_transfer.files import write_tensors
from pass_transfer.networks import (
    BackboneSpec,
    build_backbone,
    builders,
    register_network,
    timm_networks,
)
from pass_transfer.networks.named import load_network, named_spec

VIT = "timm/test_vit"  # 160 pixels, patches of 16


def state_of(name, classes=1000, size=64):
    torch.manual_seed(0)
    return build_backbone(BackboneSpec(name, classes, size)).state_dict()


@pytest.fixture
def own():
    """A network of one's own, known by the name "mine" while a test runs."""

    def build(classes, image_size):
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * (image_size - 2) ** 2, classes)
        )

    register_network("mine", build, image_size=8, std=(1.0, 1.0, 1.0), crop_share=0.5)
    yield build
    del builders._SOURCES["mine"]


@pytest.mark.parametrize(
    "name, weights",
    [("resnet50", "IMAGENET1K_V1"), ("resnet50", "IMAGENET1K_V2"), ("efficientnet_b0", None)],
)
def test_preprocessing_is_that_of_torchvisions_transforms(name, weights):
    spec, given = named_spec(name, weights)
    known = get_model_weights(name)
    seen = (known[weights] if weights else known.DEFAULT).transforms()
    assert given == weights and spec.architecture == name
    assert [spec.image_size] == seen.crop_size and spec.fit == "crop"
    assert [round(spec.image_size / spec.crop_share)] == seen.resize_size
    assert (spec.mean, spec.std) == (tuple(seen.mean), tuple(seen.std))
    assert spec.interpolation == seen.interpolation.value


@pytest.mark.parametrize(
    "name",
    ["resnet18d.ra2_in1k", "vit_small_patch16_224", "efficientnet_lite0", "mobilenetv4_conv_small"],
)
def test_preprocessing_is_that_of_timms_data_configuration(name):
    spec, tag = named_spec(f"timm/{name}")
    model = timm.create_model(name)
    resize, crop, *_ = create_transform(**resolve_model_data_config(model)).transforms
    assert spec.architecture == f"timm/{name.partition('.')[0]}"
    assert tag == (name.partition(".")[2] or None)
    assert crop.size == (spec.image_size, spec.image_size)
    assert round(spec.image_size / spec.crop_share) == resize.size
    assert spec.interpolation == resize.interpolation.value
    assert spec.mean == model.pretrained_cfg["mean"] and spec.std == model.pretrained_cfg["std"]


def test_weights_from_a_file_are_taken_for_what_the_default_ones_take_in(tmp_path):
    write_tensors(tmp_path / "w.safetensors", state_of("resnet18", 7))
    module, spec = load_network("resnet18", tmp_path / "w.safetensors", 97)
    plain = vars(named_spec("resnet18")[0])
    assert spec == BackboneSpec(**{**plain, "classes": 7, "image_size": 97})
    assert module.fc.out_features == 7 and not module.training
    small = BackboneSpec(**{**plain, "image_size": 96, "crop_share": 1.0})
    assert named_spec("resnet18", image_size=96)[0] == small, "a small image is shown whole"


PREFIXES = ("", "module.", "_orig_mod.", "model.", "backbone.", "ema.", "state_dict.model.")


@pytest.mark.parametrize("name", ["timm/test_resnet", VIT])
@given(prefix=st.sampled_from(PREFIXES), half=st.sampled_from((None, "half", "bfloat16")))
@settings(max_examples=8)
def test_checkpoints_are_read_as_they_are_found(tmp_path_factory, name, prefix, half):
    state = state_of(name, 3, 160)
    given_ = {
        f"{prefix}{n}": getattr(t, half)() if half and t.is_floating_point() else t
        for n, t in state.items()
    }
    path = tmp_path_factory.mktemp("w") / "w.safetensors"
    write_tensors(path, given_)
    module, spec = load_network(name, path, 160)
    assert spec.classes == 3
    for n, tensor in module.state_dict().items():
        assert tensor.dtype == state[n].dtype
        assert torch.allclose(tensor.float(), state[n].float(), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("size", [96, 160, 224])
def test_positions_are_interpolated_as_timm_does(tmp_path, size):
    state = state_of(VIT, 5, 160)
    write_tensors(tmp_path / "w.safetensors", {f"module.{n}": t for n, t in state.items()})
    torch.save(state, tmp_path / "timms.pth")
    module, spec = load_network(VIT, tmp_path / "w.safetensors", size)
    theirs = timm.create_model("test_vit", img_size=size, num_classes=5)
    timm.models.load_checkpoint(theirs, tmp_path / "timms.pth", filter_fn=checkpoint_filter_fn)
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(module(images), theirs.eval()(images)) and spec.image_size == size


def test_positions_are_interpolated_as_torchvision_does(monkeypatch, tmp_path):
    monkeypatch.setitem(builders._SOURCES, "vit_b_16", builders.OF_TORCHVISION)

    def vit(name, weights, num_classes, image_size):
        return VisionTransformer(image_size, 16, 1, 2, 8, 16, num_classes=num_classes)

    monkeypatch.setattr("torchvision.models.get_model", vit)
    state = vit(None, None, 5, 64).state_dict()
    write_tensors(tmp_path / "w.safetensors", state)
    module, _ = load_network("vit_b_16", tmp_path / "w.safetensors", 96)
    expected = interpolate_embeddings(96, 16, dict(state))
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, expected[name.replace("in_proj.", "in_proj_")])


def test_default_weights_come_from_the_library_and_never_at_random(monkeypatch):
    asked = []

    def download(self, **options):
        asked.append(self.name)
        return get_model("resnet18").state_dict()

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", download)
    module, spec = load_network("resnet18", image_size=64)
    load_network("resnet18", "IMAGENET1K_V1")
    assert asked == ["IMAGENET1K_V1"] * 2 and spec.classes == 1000


def test_timms_weights_come_from_timm(monkeypatch):
    state = timm.create_model("test_resnet").state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: state)
    module, spec = load_network("timm/test_resnet.r160_in1k")
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    assert spec.classes == 1000 and spec.image_size == 160


def test_a_download_that_fails_is_said_in_one_line(monkeypatch):
    def fail(*_, **__):
        raise OSError("no network\nat all")

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", fail)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fail)
    for name in ("resnet18", "timm/test_resnet"):
        with pytest.raises(BackboneError, match="cannot download") as refusal:
            load_network(name)
        assert "\n" not in str(refusal.value) and "give a .pth" in str(refusal.value)


@pytest.mark.parametrize(
    "name, weights, size, kind, words",
    [
        ("resnet51", None, None, UsageError, "or resnet50"),
        ("mobilenetv4_small", None, None, UsageError, "timm/mobilenetv4_conv_small"),
        ("timm/resnet18x", None, None, UsageError, "timm/resnet18d"),
        (7, None, None, UsageError, "network is 7"),
        ("resnet18", "IMAGENET1K_V7", None, BackboneError, "IMAGENET1K_V1"),
        ("timm/resnet18", "a9_in1k", None, BackboneError, "a1_in1k"),
        ("timm/resnet18.a9_in1k", None, None, BackboneError, "a1_in1k"),
        ("resnet18", "no.pth", None, BackboneError, "no weights file no.pth"),
        ("resnet18", "here/no", None, BackboneError, "no weights file here/no"),
        ("vgg16", "IMAGENET1K_V1", 16, UsageError, "image_size is 16; this vgg16 does not take"),
        ("resnet18", None, 0, UsageError, "image_size is 0"),
        ("mine", None, None, BackboneError, "without weights to download"),
        ("mine", "V1", None, BackboneError, "'V1' is no file"),
        ("mine", None, 1, UsageError, "image_size is 1"),
    ],
)
def test_what_cannot_be_is_refused(own, name, weights, size, kind, words):
    with pytest.raises(PassTransferError) as refusal:
        load_network(name, weights, size)
    assert isinstance(refusal.value, kind) and words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_weights_of_another_network_are_refused_by_their_first_tensor(tmp_path):
    write_tensors(tmp_path / "w.safetensors", state_of("mobilenet_v3_small"))
    with pytest.raises(BackboneError, match="conv1.weight is missing.*but of mobilenet_v3_small"):
        load_network("resnet18", tmp_path / "w.safetensors")


def test_without_timm_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UsageError, match=r"pip install 'pass-transfer\[timm\]'"):
        load_network("timm/resnet18")
    monkeypatch.setattr(timm_networks, "installed", lambda: False)
    with pytest.raises(UsageError, match="did you mean resnet50"):
        load_network("resnet51")


def test_a_network_of_ones_own_takes_what_it_was_registered_with(own, tmp_path):
    write_tensors(tmp_path / "w.safetensors", own(3, 12).state_dict())
    module, spec = load_network("mine", tmp_path / "w.safetensors", 12)
    assert spec == BackboneSpec("mine", 3, 12, std=(1.0, 1.0, 1.0), crop_share=0.5)
    assert module(torch.rand(1, 3, 12, 12)).shape == (1, 3)


@pytest.mark.parametrize(
    "given_, words",
    [
        (("resnet18", nn.Identity), "a library has"),
        (("timm/x", nn.Identity), "a library has"),
        ((" ", nn.Identity), "give letters or digits"),
        ((3, nn.Identity), "name is 3"),
        (("x", "y"), "build is 'y'"),
    ],
)
def test_what_is_no_network_is_not_registered(given_, words):
    with pytest.raises(UsageError, match=words):
        register_network(*given_)
    with pytest.raises(UsageError, match="colour"):
        register_network("x", nn.Identity, colour=1)
    with pytest.raises(UsageError, match="image_size is 0"):
        register_network("x", nn.Identity, image_size=0)
    assert "x" not in builders.architectures()


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda classes: classes, "what the builder of mine gives is .*; it is a network"),
        (lambda classes: OfPixels(7), r"to 1000 classes, but to \(1, 7\)"),
        (lambda classes: OfPixels(classes, tuple), "to 1000 classes, but to a tuple"),
    ],
)
def test_a_builder_that_makes_something_else_is_told_so(own, build, words):
    register_network("mine", build, image_size=8)
    with pytest.raises(PassTransferError, match=words):
        named_spec("mine")


class OfPixels(nn.Linear):
    """Logits of the mean colour, in whatever they are handed out in."""

    def __init__(self, classes, handed=lambda logits: logits):
        super().__init__(3, classes)
        self.handed = handed

    def forward(self, images):
        return self.handed(super().forward(images.mean((2, 3))))
