"""Whether a network that was cut computes what it computes under masks."""

from __future__ import annotations

import copy

import torch
from torch import nn

from pass_transfer.errors import BackboneError
from pass_transfer.masking.hooks import masked
from pass_transfer.networks import ChannelGroups
from pass_transfer.networks.classifier import classifier_name
from pass_transfer.networks.image import blank_image
from pass_transfer.networks.modes import eval_mode
from pass_transfer.networks.removal import remove_channels
from pass_transfer.random_streams import stream

SHARE = 0.6  # of the units that are kept in the cut that is tried
TOLERANCE = 1e-3  # of the largest logit; a wrong cut is off by more than a tenth


def check_agreement(backbone: nn.Module, groups: ChannelGroups, image_size: int) -> None:
    """Refuse a network whose cut is not what its masks say, by one cut that is drawn.

    So a network whose layers do something unforeseen is told before anything is trained.

    Args:
        backbone: left as it is.
        groups: its channel groups.
        image_size: side of its images in pixels.

    Raises:
        BackboneError: the cut network does not run, or computes something else.
    """
    draw, name = stream(0, "agreement"), type(backbone).__name__
    masks = {}
    for group_name, group in groups.items():
        masks[group_name] = torch.rand(group.width, generator=draw) < SHARE
        masks[group_name][int(torch.randint(group.width, (), generator=draw))] = True
    backbone = _telling(backbone)
    blank = blank_image(backbone, image_size)
    image = torch.randn(blank.shape, generator=draw).to(blank)
    with torch.no_grad(), eval_mode(backbone):
        with masked(backbone, groups, masks):
            expected = backbone(image)
        if not isinstance(expected, torch.Tensor):
            raise BackboneError(
                f"{name} gives a {type(expected).__name__}, not a tensor of logits (B, classes); "
                "wrap it in a module that gives these alone"
            )
        try:
            found = remove_channels(backbone, masks, groups)(image)
            if found.shape != expected.shape:
                raise ValueError(f"it gives {tuple(found.shape)}, not {tuple(expected.shape)}")
        except Exception as error:  # a network may be anybody's, and raise anything
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            raise BackboneError(
                f"{name} cannot be cut: its code fails with fewer channels ({why})"
            ) from error
    difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    if not difference <= TOLERANCE:
        raise BackboneError(
            f"{name} cannot be cut: without channels it does not compute what it computes with "
            f"these masked (they differ by {difference:.1%} of the largest logit)"
        )


def _telling(backbone: nn.Module) -> nn.Module:
    """A network whose logits tell a wrong cut from a right one.

    A classifier of zeros becomes a drawn one, and half precision single precision.
    """
    classifier = classifier_name(backbone)
    silent = not bool(backbone.get_submodule(classifier).get_parameter("weight").any())
    coarse = next(backbone.parameters()).dtype in (torch.float16, torch.bfloat16)
    if not silent and not coarse:
        return backbone
    telling = copy.deepcopy(backbone)
    if coarse:
        telling.float()
    if silent:
        weight = telling.get_submodule(classifier).get_parameter("weight")
        weight.data.copy_(torch.randn(weight.shape, generator=stream(0, "classifier")))
    return telling
