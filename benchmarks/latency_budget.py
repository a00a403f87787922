"""Whether a latency budget holds.

    python benchmarks/latency_budget.py --milliseconds 6 10 --batch 1

Each budget is cut in one process and judged in another, several times: the network that was
cut is measured again, and the next larger cut beside it. Prints and writes the times as
shares of what was asked for. Both processes measure the dense network, too, since a shared
machine may run it at another pace a minute later.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys

from provenance import provenance

from pass_transfer.files import make_folder, write_json

CUT = """
import json, sys, torch
from pass_transfer.latency import measure_latency
from pass_transfer.zoo.entry import load_hypernet
name, milliseconds, batch, round_to, device = sys.argv[1:]
entry, batch = load_hypernet(name), int(batch)
masks = entry.generate_masks(
    entry.prompt(),
    latency_ms=float(milliseconds),
    batch=batch,
    round_to=int(round_to),
    device=device,
)
network = entry.network(None, entry.prompt()).to(device, memory_format=torch.channels_last)
times = measure_latency({"dense": network}, entry.spec.image_size, (batch,), 60)
print(json.dumps({"kept": masks.kept, "dense": times["dense"][batch]}))
"""

JUDGE = """
import json, sys, torch
from pass_transfer.latency import measure_latency
from pass_transfer.budgets.ranking import RankedCuts
from pass_transfer.zoo.entry import load_hypernet
name, kept, batch, round_to, device = sys.argv[1:]
entry, kept, batch = load_hypernet(name), json.loads(kept), int(batch)
cuts = RankedCuts(entry.scores(entry.prompt()), entry.groups, round_to=int(round_to))
count = next(n for n in range(cuts.least, cuts.most + 1) if cuts.kept(n) == kept)
chosen = {"found": cuts.masks(count), "dense": None}
larger = cuts.next_larger(count)
if larger is not None:
    chosen["next"] = cuts.masks(larger)
networks = {}
for name, masks in chosen.items():
    network = entry.network(masks, entry.prompt())
    networks[name] = network.to(device, memory_format=torch.channels_last)
times = measure_latency(networks, entry.spec.image_size, (batch,), 60)
row = {name: by_batch[batch] for name, by_batch in times.items()}
row["macs_share"] = entry.table.macs(kept) / entry.table.dense
print(json.dumps(row))
"""


def main() -> None:
    """Cut, judge, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hypernet", default="zoo/r18_tinyimnet")
    parser.add_argument("--milliseconds", type=float, nargs="+", required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--round-to", type=int, default=1)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", default="benchmarks/results/latency_budget")
    given = parser.parse_args()
    origin, rows = provenance(), []
    settings = (given.batch, given.round_to, given.device)
    for asked, number in itertools.product(given.milliseconds, range(given.times)):
        cut = _process(CUT, given.hypernet, asked, *settings)
        row = _process(JUDGE, given.hypernet, json.dumps(cut["kept"]), *settings)
        row |= {"asked_ms": asked, "time": number, "dense_when_cut": cut["dense"]}
        rows.append(row)
        print(_in_words(row), flush=True)
    name = f"batch{given.batch}-round{given.round_to}-{given.device}.json"
    write_json(make_folder(given.out) / name, vars(given) | {"rows": rows} | origin)
    shares = [row["found"] / row["asked_ms"] for row in rows]
    steady = [_steady(row) for row in rows]
    print(
        f"measured again: {statistics.mean(shares):.1%} of what was asked on average, "
        f"{max(shares):.1%} at most; at the dense network's pace "
        f"{statistics.mean(steady):.1%} and {max(steady):.1%}"
    )


def _in_words(row: dict) -> str:
    asked, found = row["asked_ms"], row["found"]
    return (
        f"asked {asked:g} ms: {found:.2f} ms measured again ({found / asked:.1%}; "
        f"{_steady(row):.1%} at the dense network's pace), "
        f"next larger cut {row.get('next', found):.2f} ms, "
        f"dense {row['dense_when_cut']:.2f} ms then and {row['dense']:.2f} ms now, "
        f"{row['macs_share']:.1%} of the MACs"
    )


def _steady(row: dict) -> float:
    """Share of the budget that is used, had the dense network run as fast as at the cut."""
    return row["found"] / row["asked_ms"] * row["dense_when_cut"] / row["dense"]


def _process(code: str, *arguments: object) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
