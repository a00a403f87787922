"""What reading a folder of many small files costs, beside a plain reading of the same folder.

    python benchmarks/reading.py --images 50000 --rounds 3

Both list the folder, look whether it was decoded before, and decode it to 64 pixels if it was not.
The plain reading names what it keeps by the files' places, sizes and times, opens each file by
its path, converts it to RGB and resizes it: that was all that version 0.1 did. The library also
hashes every file, looks at orientation, depth and transparency, and tells what it left out.
"Cold" has an empty cache; "warm" finds all images decoded. Every round does both, in turn.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from pass_transfer.provenance import provenance
from pass_transfer.tasks import load_task

SIZE, BLOCK = 64, 512
CLASSES = 20


def make_folder(root: Path, images: int) -> None:
    """JPEG files of about 2 kB in folders of classes."""
    draw = np.random.default_rng(0)
    for number in range(images):
        folder = root / f"class{number % CLASSES:02}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = draw.integers(0, 256, (12, 12, 3), np.uint8)
        image = Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:06}.jpg", quality=85)


def read_plainly(root: Path, cache: Path) -> None:
    """As version 0.1 read a folder, in a few lines."""
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() == ".jpg")
    stamps = []
    for path in paths:
        status = path.stat()
        stamps.append((str(path.resolve()), status.st_size, status.st_mtime_ns))
    key = hashlib.sha256(json.dumps(stamps).encode()).hexdigest()
    kept = cache / f"{key}.npy"
    if kept.exists():
        np.load(kept, mmap_mode="r")
        return
    pixels = np.zeros((len(paths), SIZE, SIZE, 3), np.uint8)

    def decode(index: int) -> None:
        with Image.open(str(paths[index])) as image:
            whole = image.convert("RGB")
            if whole.size != (SIZE, SIZE):
                whole = whole.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            pixels[index] = np.asarray(whole)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), BLOCK):
            list(pool.map(decode, range(start, min(start + BLOCK, len(paths)))))
    np.save(kept, pixels)


def read_with_library(root: Path) -> None:
    """As load_task reads it, without what it says."""
    with contextlib.redirect_stderr(io.StringIO()):
        load_task(f"folder:{root}", SIZE)


def seconds(work: Callable[[], None]) -> float:
    """Seconds that some work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def one_round(root: Path, caches: Path) -> dict[str, float]:
    """Seconds of both readings, with an empty and with a filled cache."""
    shutil.rmtree(caches, ignore_errors=True)
    plain = caches / "plain"
    plain.mkdir(parents=True)
    os.environ["PASS_TRANSFER_CACHE"] = str(caches / "library")
    found = {}
    for state in ("cold", "warm"):
        found[f"plain_{state}"] = seconds(lambda: read_plainly(root, plain))
        found[f"library_{state}"] = seconds(lambda: read_with_library(root))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write a JSON file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="reading-") as place:
        root = Path(place, "photos")
        make_folder(root, options.images)
        rounds = []
        for number in range(options.rounds + 1):  # the first one warms the system's own caches
            rounds.append(one_round(root, Path(place, "caches")))
            print({name: round(value, 2) for name, value in rounds[number].items()}, flush=True)
    times = {name: statistics.median(one[name] for one in rounds[1:]) for name in rounds[0]}
    ratios = {
        state: times[f"library_{state}"] / times[f"plain_{state}"] for state in ("cold", "warm")
    }
    for state, ratio in ratios.items():
        plain, library = times[f"plain_{state}"], times[f"library_{state}"]
        print(f"{state}: plain {plain:.2f} s, library {library:.2f} s, ratio {ratio:.2f}")
    if options.out:
        result = {"images": options.images, "seconds": times, "ratios": ratios}
        options.out.write_text(json.dumps(result | provenance(), indent=2) + "\n")


if __name__ == "__main__":
    main()
