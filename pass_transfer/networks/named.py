"""A pretrained network by its name: its weights, and the preprocessing that they expect.

module, spec = load_network("resnet50", "IMAGENET1K_V2", image_size=160)
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pass_transfer.arguments import check_is, check_path
from pass_transfer.errors import BackboneError, UsageError
from pass_transfer.networks import timm_networks
from pass_transfer.networks.builders import OF_TIMM, OF_TORCHVISION, build_backbone, source_of
from pass_transfer.networks.outline import ODD_SIZE, check_images, outline
from pass_transfer.networks.spec import BackboneSpec
from pass_transfer.networks.weights import is_file, load_dense
from pass_transfer.preprocessing import SMALL

CLASSES = 1000  # of ImageNet, until it is known how many the weights have


def load_network(
    name: str, weights: str | Path | None = None, image_size: int | None = None
) -> tuple[nn.Module, BackboneSpec]:
    """A pretrained network in eval mode, and what it takes in.

    Args:
        name: torchvision's, such as "resnet50"; "timm/NAME", with or without the tag of its
            weights; or a name given to register_network.
        weights: a checkpoint's file (see read_checkpoint), a torchvision weight name such as
            "IMAGENET1K_V2", or a tag of timm's; the library's default ones without it, which
            are downloaded.
        image_size: in pixels, if not that of the weights. Positions of a transformer are
            interpolated.

    Raises:
        UsageError: an unknown network, or a size that it does not take.
        BackboneError: weights that are unknown, damaged, of another network, or do not come.
        StorageError: a damaged safetensors file.
    """
    spec, weights = named_spec(name, weights, image_size)
    return load_dense(spec, weights)


def named_spec(
    name: str, weights: str | Path | None = None, image_size: int | None = None
) -> tuple[BackboneSpec, str | Path | None]:
    """What a network takes in, and which weights are meant; see load_network.

    Nothing is downloaded. With weights from a file, it is what the network's default weights
    take in. Up to SMALL pixels a library's network is shown the whole image. The number of
    classes is the weights' own matter.
    """
    check_is("network", name, str, "a name, such as 'resnet50'")
    architecture, tag = _split(name)
    source = source_of(architecture)
    if weights is not None:
        check_path("weights", weights)
    named = str(weights) if weights is not None and not is_file(weights) else tag
    takes = source.inputs(architecture, named)
    if image_size is not None:
        takes["image_size"] = image_size
    if takes["image_size"] <= SMALL and source in (OF_TORCHVISION, OF_TIMM):
        takes["crop_share"] = 1.0
    spec = BackboneSpec(architecture, CLASSES, **takes)
    _check_size(spec)
    return spec, named if weights is None else weights


def _split(name: str) -> tuple[str, str | None]:
    """The architecture's name, and the tag that timm writes behind it."""
    if not name.startswith(timm_networks.PREFIX):
        return name, None
    architecture, _, tag = name.partition(".")
    return architecture, tag or None


def _check_size(spec: BackboneSpec) -> None:
    """Refuse an image size that a network does not take. Raises UsageError."""
    try:
        check_images(outline(lambda: build_backbone(spec)), spec)
    except NotImplementedError:  # a builder with an operator that knows no meta device
        return
    except UsageError:
        raise
    except (BackboneError, *ODD_SIZE) as error:
        message = f"image_size is {spec.image_size}; {_first_line(error, spec)}"
        raise UsageError(message, "image_size") from error


def _first_line(error: Exception, spec: BackboneSpec) -> str:
    """Why a network does not take a size."""
    said = str(error).splitlines()[0]
    ours = isinstance(error, BackboneError)
    return said if ours else f"{spec.architecture} cannot be built for that: {said}"
