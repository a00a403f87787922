"""A finished run's folder as adapt leaves it, written in a moment; a page as a reader sees it."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from pass_transfer.files import write_tensors
from pass_transfer.networks import BackboneSpec
from pass_transfer.networks.network import Network
from pass_transfer.prompts import Prompt
from pass_transfer.pruned import PrunedModel
from pass_transfer.runs.evaluation import Evaluation

SIDE = 32
CLASSES = 10
IMAGES = 400

RESULT = {
    "task": "photos",
    "hypernet": "zoo/small",
    "method": "prompt",
    "seed": 3,
    "device": "cpu",
    "top5": 93.21,
    "top1_without_prompt": 61.37,
    "dense_top1": None,
    "macs": 18_234_567,
    "dense_macs": 37_345_678,
    "parameters": 4_262_754,
    "dense_parameters": 11_227_812,
    "latency_ms": {"1": 5.551, "32": 55.362},
    "dense_latency_ms": {"1": 9.861, "32": 91.666},
    "skipped_images": 0,
    "images": IMAGES,
    "search_seconds": 154.7,
    "seconds": 2131.4,
    "dense_seconds": None,
}
CONFIG = {
    "recipe": "adapt",
    "entry": "zoo/small",
    "fingerprint": "1dc9297e236b",
    "task": "folder:my photos",
    "data_dir": None,
    "classes": CLASSES,
    "images": 360,
    "device": "cpu",
    "precision": "no",
    "method": "prompt",
    "settings": {
        "uniform": False,
        "coupling": "grouped",
        "steps": 20,
        "lr": 0.001,
        "image_share": 0.1,
        "low": 0.4,
        "high": 0.7,
        "prior": "task",
        "deploy_prompt": True,
    },
    "budget": {"macs": "18.3M", "round_to": 8, "keep_layers": ["layer1.*", "fc"]},
    "effort": "quick",
    "epochs": 2,
    "batch_size": 64,
    "lr": 0.03,
    "weight_decay": 5e-4,
    "label_mapping": "auto",
    "reconstruct": True,
    "seed": 3,
    "threads": 2,
    "versions": {"pass_transfer": "0.1.0", "python": "3.11.7", "torch": "2.15.0"},
}


def metrics(stage, epochs=2, held_out=True):
    """Rows of metrics.jsonl, no two numbers alike."""
    draw = torch.Generator().manual_seed(len(stage))
    for epoch in range(1, epochs + 1):
        scale = torch.tensor([3, 100, 3, 100, 100, 500])
        values = torch.rand(6, generator=draw, dtype=torch.float64) * scale
        loss, top1, other_loss, other_top1, top5, seconds = values.tolist()
        row = {"stage": stage, "epoch": epoch, "train_loss": loss, "train_top1": top1}
        if held_out:
            row |= {"held_out_top1": other_top1, "held_out_top5": top5}
            row |= {"held_out_loss": other_loss}
        yield row | {"seconds": round(seconds, 2)}


def confusion():
    """Counts of IMAGES images, most of them on the diagonal."""
    draw = torch.Generator().manual_seed(5)
    labels = torch.randint(CLASSES, (IMAGES,), generator=draw)
    wrong = torch.rand(IMAGES, generator=draw) < 0.3
    predictions = torch.where(wrong, torch.randint(CLASSES, (IMAGES,), generator=draw), labels)
    counts = torch.bincount(CLASSES * labels + predictions, minlength=CLASSES**2)
    return counts.view(CLASSES, CLASSES)


@pytest.fixture(scope="session")
def original(networks, random_masks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    network, groups = networks("resnet18")
    masks, spec = random_masks(groups, 0, 0.1), BackboneSpec("resnet18", CLASSES, SIDE)
    prompt, counts = Prompt("additive", SIDE, 3, seed=1), confusion()
    small = Network(masks.apply(network), spec.mean, spec.std, prompt)
    units = {name: mask.nonzero().flatten().tolist() for name, mask in masks.items()}
    PrunedModel(small, spec, [f"class {n}" for n in range(CLASSES)], units).save(folder)
    masks.save(folder / "masks.safetensors")
    scores = {name: mask.double() for name, mask in masks.items()}
    write_tensors(folder / "scores.safetensors", scores)
    write_tensors(folder / "prompt.safetensors", Prompt("additive", SIDE, 3, seed=2).state_dict())
    draw, shape = torch.Generator().manual_seed(6), (4, 3, SIDE, SIDE)
    samples = torch.randint(256, shape, dtype=torch.uint8, generator=draw)
    Evaluation(counts, samples, torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 7, 3])).save(folder)
    top1 = 100 * int(counts.diag().sum()) / IMAGES
    result = RESULT | {"top1": top1, "channels_kept": masks.kept, "channels": masks.widths}
    (folder / "result.json").write_text(json.dumps(result | {"run": "runs/my photos"}))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    rows = [*metrics("prompt", 3, held_out=False), *metrics("finetune")]
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / "metrics.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture
def finished(original, tmp_path):
    """A finished run's folder of one's own."""
    return Path(shutil.copytree(original, tmp_path / "a run"))


class Reader(HTMLParser):
    """What a page says: its text, tables, elements and the alternatives of its images.

    `errors` are end tags that close nothing and elements that are left open.
    """

    VOID = {"meta", "link", "img", "source", "br"}

    def __init__(self, html):
        super().__init__()
        self.words, self.tables, self.elements, self.open, self.errors = [], [], [], [], []
        self.feed(html)
        self.close()
        self.errors += self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.errors.append(tag)

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def all(self, tag):
        """Attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    def table(self, *header):
        """The rows under the table with this header."""
        return next(rows[1:] for rows in self.tables if tuple(rows[0]) == header)

    def facts(self, name):
        """The rows, by name, of the table without a header that has a row of this name."""
        pairs = [dict(rows) for rows in self.tables if all(len(row) == 2 for row in rows)]
        return next(rows for rows in pairs if name in rows)


@pytest.fixture
def read():
    """A run folder -> its report as a Reader."""
    return lambda folder: Reader((folder / "report.html").read_text(encoding="utf-8"))
