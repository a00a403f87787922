"""Whether a latency budget holds: what was cut to it, measured again in a new process, and the next larger cut beside it.

    python benchmarks/latency_budget.py --milliseconds 6 10 --batch 1

Each budget is cut in one process and judged in another, several times. Prints and writes
the times as shares of what was asked for. Both processes measure the dense network too, since
a shared machine may run it at another pace a minute later.
"""

from __future__ import annotations

import argparse
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
entry, batch = load_hypernet(sys.argv[1]), int(sys.argv[3])
masks = entry.generate_masks(entry.prompt(), latency_ms=float(sys.argv[2]), batch=batch, round_to=int(sys.argv[4]), device=sys.argv[5])
dense = measure_latency({"dense": entry.network(None, entry.prompt()).to(sys.argv[5], memory_format=torch.channels_last)}, entry.spec.image_size, (batch,), 60)["dense"][batch]
print(json.dumps({"kept": masks.kept, "dense": dense}))
"""

JUDGE = """
import json, sys, torch
from pass_transfer.latency import measure_latency
from pass_transfer.budgets.ranking import RankedCuts
from pass_transfer.zoo.entry import load_hypernet
entry, kept, batch = load_hypernet(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
cuts = RankedCuts(entry.scores(entry.prompt()), entry.groups, round_to=int(sys.argv[4]))
count = next(n for n in range(cuts.least, cuts.most + 1) if cuts.kept(n) == kept)
chosen = {"found": cuts.masks(count), "dense": None} | ({} if cuts.next_larger(count) is None else {"next": cuts.masks(cuts.next_larger(count))})
networks = {name: entry.network(masks, entry.prompt()).to(sys.argv[5], memory_format=torch.channels_last) for name, masks in chosen.items()}
times = measure_latency(networks, entry.spec.image_size, (batch,), 60)
print(json.dumps({name: by_batch[batch] for name, by_batch in times.items()} | {"macs_share": entry.table.macs(kept) / entry.table.dense}))
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
    for asked in given.milliseconds:
        for number in range(given.times):
            cut = _process(CUT, given.hypernet, asked, given.batch, given.round_to, given.device)
            row = _process(
                JUDGE,
                given.hypernet,
                json.dumps(cut["kept"]),
                given.batch,
                given.round_to,
                given.device,
            )
            row |= {"asked_ms": asked, "time": number, "dense_when_cut": cut["dense"]}
            rows.append(row)
            print(
                f"asked {asked:g} ms: {row['found']:.2f} ms measured again ({row['found'] / asked:.1%}; {_steady(row):.1%} at the dense network's pace), "
                f"next larger cut {row.get('next', row['found']):.2f} ms, dense {row['dense_when_cut']:.2f} ms then and {row['dense']:.2f} ms now, "
                f"{row['macs_share']:.1%} of the MACs",
                flush=True,
            )
    write_json(
        make_folder(given.out) / f"batch{given.batch}-round{given.round_to}-{given.device}.json",
        vars(given) | {"rows": rows} | origin,
    )
    shares = [row["found"] / row["asked_ms"] for row in rows]
    print(
        f"measured again: {statistics.mean(shares):.1%} of what was asked on average, {max(shares):.1%} at most; "
        f"at the dense network's pace {statistics.mean(map(_steady, rows)):.1%} and {max(map(_steady, rows)):.1%}"
    )


def _steady(row: dict) -> float:
    """Share of the budget that is used, if the machine ran the dense network as fast as when the cut was made."""
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
