"""Weights that `pass-transfer finetune` starts from, where nobody has published any.

A deeper ResNet that computes what a shallow one does, from a zoo entry or a fine-tuned folder:

    python benchmarks/starting_weights.py --deepen zoo/r18_tinyimnet --to resnet34 \\
        --out runs/r34_start.safetensors

A network of which a file holds only a part, such as VGG-16's convolutions without a classifier:

    python benchmarks/starting_weights.py --part vgg16_convs.safetensors --to vgg16_narrow \\
        --classes 1000 --out runs/vgg16_start.safetensors

docs/zoo.md says how the zoo's entries are made from them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from pass_transfer.errors import BackboneError
from pass_transfer.files import read_tensors, write_tensors
from pass_transfer.networks import BackboneSpec, build_backbone
from pass_transfer.runs.backbone import read_trained

STAGES = ("layer1", "layer2", "layer3", "layer4")


def main() -> None:
    """Make the weights and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--deepen", type=Path, help="a zoo entry, or a folder of finetune")
    start.add_argument("--part", type=Path, help="a safetensors file with torchvision's names")
    parser.add_argument("--to", required=True, help="the network's name, such as resnet34")
    parser.add_argument("--classes", type=int, default=1000, help="outputs, with --part")
    parser.add_argument("--seed", type=int, default=0, help="of the initial values, with --part")
    parser.add_argument("--out", type=Path, required=True, help="a .safetensors file")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    if options.deepen is not None:
        _, spec, stored = read_trained(options.deepen)
        shallow = build_backbone(spec)
        shallow.load_state_dict(stored)
        deep = build_backbone(BackboneSpec(options.to, spec.classes, spec.image_size))
        state = deepened(shallow, deep)
    else:
        network = build_backbone(BackboneSpec(options.to, options.classes, 64))
        state = completed(read_tensors(options.part), network)
    write_tensors(options.out, state)
    print(f"{options.out}: {len(state)} tensors of {options.to}")


def deepened(shallow: nn.Module, deep: nn.Module) -> dict[str, torch.Tensor]:
    """Tensors with which a deep ResNet computes what a shallow one of the same blocks does.

    A block that only the deep one has is a copy of its stage's last, but for the last BatchNorm:
    weight and bias of zero. What such a block is given comes from a ReLU, so it passes as it is.
    Training starts from the copied features; the BatchNorm's weight decides how much they count.

    Raises BackboneError for two networks that do not belong together.
    """
    state = dict(shallow.state_dict())
    for stage in STAGES:
        last = len(shallow.get_submodule(stage)) - 1
        model = shallow.get_submodule(f"{stage}.{last}").state_dict()
        norm = "bn3" if "bn3.weight" in model else "bn2"
        closed = {f"{norm}.weight", f"{norm}.bias"}
        for added in range(last + 1, len(deep.get_submodule(stage))):
            for name, tensor in model.items():
                value = torch.zeros_like(tensor) if name in closed else tensor.clone()
                state[f"{stage}.{added}.{name}"] = value
    return _fitting(state, deep, "the deeper network")


def completed(part: Mapping[str, torch.Tensor], network: nn.Module) -> dict[str, torch.Tensor]:
    """A network's tensors: those of a part as they are, the others as the network has them.

    Raises BackboneError for a tensor that the network has not.
    """
    return _fitting(network.state_dict() | dict(part), network, "the network")


def _fitting(
    state: dict[str, torch.Tensor], network: nn.Module, what: str
) -> dict[str, torch.Tensor]:
    """The tensors themselves, if they are a network's by name and shape."""
    own = network.state_dict()
    for name in sorted(set(own) | set(state)):
        found, wanted = (tuple(s[name].shape) if name in s else None for s in (state, own))
        if found != wanted:
            raise BackboneError(f"{name} has shape {found}, and in {what} {wanted}")
    return state


if __name__ == "__main__":
    main()
