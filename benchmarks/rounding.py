"""What rounding the number of channels is worth.

That is the latency of networks of equal MACs, cut to multiples of 1, 8 and 16 channels.

    python benchmarks/rounding.py --image-size 224 --batch 32

All networks, and the dense one, are measured in turn, in one run. "gain" is the speed-up
as a share of the ratio of the MACs: 1 would be a network exactly as fast as it is small.
"""

from __future__ import annotations

import argparse
import dataclasses

import torch
from provenance import provenance

from pass_transfer.budgets.ranking import select
from pass_transfer.files import make_folder, write_json
from pass_transfer.networks import CostTable, count_macs
from pass_transfer.networks.network import Network
from pass_transfer.pruned import PrunedModel
from pass_transfer.recipes.bench import BenchConfig, compare
from pass_transfer.zoo.entry import load_hypernet

ENGINES = ("eager", "eager channels_last", "onnxruntime")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hypernet", default="zoo/r18_tinyimnet")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, nargs="+", default=[32])
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--round-to", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--engines", nargs="+", default=ENGINES)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", default="benchmarks/results/rounding")
    given = parser.parse_args()
    origin, entry = provenance(), load_hypernet(given.hypernet)
    spec = dataclasses.replace(entry.spec, image_size=given.image_size)
    scores, table = (
        entry.scores(entry.prompt()),
        CostTable(entry.backbone(), entry.groups, given.image_size),
    )
    models, macs = {}, {}
    for step in (None, *given.round_to):
        masks = (
            None
            if step is None
            else select(scores, entry.groups, macs=given.macs, table=table, round_to=step)
        )
        small = entry.network(masks).backbone
        name = "dense" if step is None else str(step)
        models[name] = PrunedModel(
            Network(small, spec.mean, spec.std), spec, entry.config["source"]["class_names"], {}
        ).eval()
        macs[name] = count_macs(models[name], given.image_size)
    rows = compare(
        models,
        BenchConfig(tuple(given.batch), tuple(given.engines), given.rounds),
        torch.device(given.device),
    )
    times = {(r["network"], r["engine"], r["batch"]): r["median_ms"] for r in rows}
    for row in rows:
        row["speed_up"] = round(times["dense", row["engine"], row["batch"]] / row["median_ms"], 3)
        row["gain"] = round(row["speed_up"] * macs[row["network"]] / macs["dense"], 3)
    write_json(
        make_folder(given.out)
        / f"{entry.spec.architecture}-{given.image_size}-{given.macs}-{given.device}.json",
        vars(given)
        | {"macs_counted": macs, "threads": torch.get_num_threads(), "rows": rows}
        | origin,
    )
    print(
        f"{'engine':<20} {'batch':>5} {'multiple of':>11} {'MACs':>7} {'ms':>9} "
        f"{'quartiles':>17} {'speed-up':>8} {'gain':>6}"
    )
    for row in rows:
        print(
            f"{row['engine']:<20} {row['batch']:>5} {row['network']:>11} "
            f"{macs[row['network']] / macs['dense']:>7.1%} {row['median_ms']:>9.2f} "
            f"{row['q1_ms']:>8.2f}-{row['q3_ms']:<8.2f} {row['speed_up']:>8.2f} {row['gain']:>6.2f}"
        )


if __name__ == "__main__":
    main()
