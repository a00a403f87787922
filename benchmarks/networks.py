"""What can be cut of many networks, whether the cut is exact, and what half of the MACs saves.

    OMP_NUM_THREADS=2 python benchmarks/networks.py --image-size 224

Networks have random weights: what can be cut, and what it costs, does not depend on them.
Each network is one JSON in benchmarks/results/networks; those that are there are not made
again, so that a run which was stopped goes on where it was. `--show` prints the table of all,
and `--into docs/networks.md` puts it there.

Half of the MACs are cut by magnitude, with channels in multiples of 8. "faster" is the dense
network's time over the small one's, in one run, in turn; "of the MACs" is that as a share of
the ratio of the MACs: 1 would be a network exactly as fast as it is small.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from torch import nn

from pass_transfer.budgets import Budget, CutNetwork
from pass_transfer.errors import UsageError
from pass_transfer.files import make_folder, write_json
from pass_transfer.masking import masked
from pass_transfer.masks import ChannelMasks
from pass_transfer.networks import (
    BackboneSpec,
    ChannelGroup,
    ChannelGroups,
    CostTable,
    build_backbone,
    count_macs,
    find_groups,
    kind_of,
)
from pass_transfer.networks.layers import Role
from pass_transfer.networks.network import Network
from pass_transfer.networks.removal import remove_channels
from pass_transfer.pruned import PrunedModel
from pass_transfer.recipes.bench import BenchConfig, compare
from pass_transfer.scoring.magnitude import group_l1

NAMES = """
    alexnet vgg11 vgg13 vgg16 vgg16_bn vgg19
    resnet18 resnet34 resnet50 resnet101 resnext50_32x4d wide_resnet50_2
    densenet121 googlenet shufflenet_v2_x1_0 squeezenet1_1
    mobilenet_v2 mobilenet_v3_small mobilenet_v3_large mnasnet1_0
    efficientnet_b0 efficientnet_v2_s regnet_x_400mf regnet_y_400mf
    convnext_tiny vit_b_16 vit_b_32 swin_t swin_v2_t
    timm/resnet50d timm/resnext50_32x4d timm/ecaresnet26t timm/efficientnet_lite0
    timm/mobilenetv4_conv_small timm/convnext_tiny timm/vit_small_patch16_224
    timm/deit3_small_patch16_224 timm/swin_tiny_patch4_window7_224
""".split()
CLASSES = 1000
BATCH = 8
ENGINE = "eager channels_last"
BEGIN, END = "<!-- printed -->", "<!-- end -->"
BLOCK = re.compile(f"{BEGIN}\n.*?\n{END}", re.DOTALL)
HEADER = (
    "| network | units (groups) | MACs that can go | masked = removed | ONNX | MACs left "
    "| dense ms | faster | of the MACs |\n|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    """Measure what is missing, or print what is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=NAMES)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", default="benchmarks/results/networks")
    parser.add_argument("--show", action="store_true", help="print the table, measure nothing")
    parser.add_argument("--into", type=Path, help="a document whose table is written again")
    given = parser.parse_args()
    if not given.show:
        for name in given.networks:
            _make(name, given, Path(given.out) / f"{name.replace('/', '_')}.json")
    table = _table(Path(given.out))
    if given.into:
        text = given.into.read_text(encoding="utf-8")
        given.into.write_text(
            BLOCK.sub(lambda _: f"{BEGIN}\n{table}\n{END}", text), encoding="utf-8"
        )
    print(table)


def _table(folder: Path) -> str:
    """All that was measured, in the order of NAMES."""
    paths = sorted(folder.glob("*.json"), key=_order)
    rows = [_row(json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    return "\n".join([HEADER, *rows])


def _order(path: Path) -> int:
    names = [name.replace("/", "_") for name in NAMES]
    return names.index(path.stem) if path.stem in names else len(names)


def _make(name: str, given: argparse.Namespace, path: Path) -> None:
    if path.exists():
        return
    try:
        spec = BackboneSpec(name, CLASSES, given.image_size)
        torch.manual_seed(0)
        network = _uneven(build_backbone(spec).eval())
    except UsageError as error:
        print(f"{name} is left out: {error}", flush=True)
        return
    found = _measured(network, spec, given.macs, given.rounds)
    make_folder(path.parent)
    write_json(path, {"network": name, "image_size": given.image_size} | found | provenance())
    print(_row(found | {"network": name}), flush=True)
    gc.collect()


@torch.no_grad()
def _uneven(network: nn.Module) -> nn.Module:
    """Tensors that start as one number, as in normalisations, differ as training leaves them."""
    for parameter in network.parameters():
        if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
            nn.init.uniform_(parameter, 0.5, 1.5)
    return network


def _measured(network: nn.Module, spec: BackboneSpec, share: float, rounds: int) -> dict[str, Any]:
    size = spec.image_size
    groups = find_groups(network, size)
    table = CostTable(network, groups, size)
    target = CutNetwork(groups, table, lambda masks: network, size)
    masks = Budget(macs=share, round_to=8).cut(group_l1(network, groups), target)
    small = remove_channels(network, masks, groups)
    found = {
        "units": _units(network, groups),
        "kept_whole": dict(groups.kept_whole),
        "can_go": 1 - table.macs(dict.fromkeys(groups, 1)) / table.dense,
        "difference": _difference(network, groups, masks, small, size),
        "macs": table.dense,
        "macs_left": count_macs(small, size),
    }
    models = {n: _model(m, spec) for n, m in (("dense", network), ("small", small))}
    with tempfile.TemporaryDirectory() as scratch:
        exported = models["small"].export(Path(scratch) / "small.onnx")
    rows = compare(models, BenchConfig((BATCH,), (ENGINE,), rounds))
    times = {row["network"]: row["median_ms"] for row in rows}
    return found | {
        "onnx_difference": exported["difference"],
        "milliseconds": times,
        "threads": torch.get_num_threads(),
    }


def _model(network: nn.Module, spec: BackboneSpec) -> PrunedModel:
    names = [str(number) for number in range(spec.classes)]
    return PrunedModel(Network(network, spec.mean, spec.std), spec, names, {}).eval()


def _difference(
    network: nn.Module, groups: ChannelGroups, masks: ChannelMasks, small: nn.Module, size: int
) -> float:
    """How far the removed network is from the masked one, as a share of the largest logit."""
    images = torch.randn(1, 3, size, size)
    with torch.no_grad(), masked(network, groups, masks):
        expected = network(images)
        return float((small(images) - expected).abs().max() / expected.abs().max())


def _units(network: nn.Module, groups: ChannelGroups) -> dict[str, list[int]]:
    """By kind of unit, how many groups there are and how many units in them."""
    found: dict[str, list[int]] = {}
    for group in groups.values():
        count = found.setdefault(_kind(network, group), [0, 0])
        count[0] += 1
        count[1] += group.width
    return found


def _kind(network: nn.Module, group: ChannelGroup) -> str:
    """Heads are what products of activations belong to; hidden units, what linear layers make."""
    if group.products:
        return "heads"
    maker = kind_of(network.get_submodule(group.name))
    return "hidden units" if maker.role is Role.LINEAR else "channels"


def _row(found: Mapping[str, Any]) -> str:
    dense, small = found["milliseconds"]["dense"], found["milliseconds"]["small"]
    left = found["macs_left"] / found["macs"]
    return "| " + " | ".join([*_cells(found), f"{left:.1%}", *_times(dense, small, left)]) + " |"


def _cells(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"`{found['network']}`"
    units = found["units"].items()
    yield "; ".join(f"{width:,} {kind} ({groups})" for kind, (groups, width) in units)
    yield f"{found['can_go']:.0%}"
    yield f"{found['difference']:.0e}"
    yield f"{found['onnx_difference']:.0e}"


def _times(dense: float, small: float, left: float) -> Iterator[str]:
    yield f"{dense:.0f}"
    yield f"{dense / small:.2f}"
    yield f"{dense / small * left:.2f}"


if __name__ == "__main__":
    main()
