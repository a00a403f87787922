"""The entries that the project ships: whole, and with a prompt that is heard."""

from pathlib import Path

import pytest
import torch

import pass_transfer as pt
from pass_transfer.prompts import Prompt
from pass_transfer.zoo.entry import verify_entry

ZOO = Path(__file__).resolve().parents[1] / "zoo"
ENTRIES = sorted(p.parent.name for p in ZOO.glob("*/manifest.json"))


@pytest.fixture(scope="module", params=ENTRIES)
def entry(request):
    return pt.load_hypernet(ZOO / request.param)


def test_there_is_an_entry():
    assert "r18_tinyimnet" in ENTRIES


@pytest.mark.parametrize("name", ENTRIES)
def test_every_file_is_what_the_manifest_says_and_the_masks_are_the_prompts(name):
    files = {path.name for path in (ZOO / name).iterdir()}
    assert set(verify_entry(ZOO / name)) == files - {"manifest.json"}


@pytest.mark.parametrize("round_to", [1, 8])
def test_a_smaller_budgets_channels_are_a_subset_of_a_larger_ones(entry, round_to):
    shares, prompt = (0.2, 0.35, 0.5, 0.8, 1.0), entry.prompt()
    masks = [entry.generate_masks(prompt, macs=share, round_to=round_to) for share in shares]
    assert all(small.issubset(large) for small, large in zip(masks, masks[1:]))
    assert masks[-1].density == 1.0
    for cut in masks:
        rest = {kept % round_to for name, kept in cut.kept.items() if kept < cut.widths[name]}
        assert rest <= {0}


def test_a_budget_keeps_multiples_of_eight_unless_asked_for_others(entry):
    rounded = entry.generate_masks(entry.prompt(), pt.Budget(macs=0.5, round_to=8))
    assert entry.generate_masks(entry.prompt(), macs=0.5) == rounded


def test_another_prompt_gives_other_scores_and_masks(entry):
    trained = entry.prompt()
    zero, mirrored = (Prompt(trained.kind, trained.size, trained.pad) for _ in range(2))
    with torch.no_grad():
        zero.values.zero_()
        mirrored.values.copy_(trained.values.flip(1, 2))
    prompts = (trained, zero, mirrored)
    masks = [entry.generate_masks(prompt, macs=0.5, round_to=1) for prompt in prompts]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert masks[one].difference(masks[other]) > 0.01
