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


def test_a_smaller_budgets_channels_are_a_subset_of_a_larger_ones(entry):
    shares = (0.2, 0.35, 0.5, 0.8, 1.0)
    masks = [entry.generate_masks(entry.prompt(), macs=share) for share in shares]
    assert all(small.issubset(large) for small, large in zip(masks, masks[1:]))
    assert masks[-1].density == 1.0


def test_another_prompt_gives_other_scores_and_masks(entry):
    trained = entry.prompt()
    zero, mirrored = Prompt(**trained.shape), Prompt(**trained.shape)
    with torch.no_grad():
        zero.values.zero_()
        mirrored.values.copy_(trained.values.flip(1, 2))
    masks = [entry.generate_masks(p, macs=0.5) for p in (trained, zero, mirrored)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert masks[one].difference(masks[other]) > 0.01
