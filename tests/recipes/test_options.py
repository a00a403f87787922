"""What Python callers give wrongly is refused in Python's words, before anything is read."""

import pytest

import pass_transfer as pt
from pass_transfer.errors import UsageError


@pytest.mark.parametrize(
    "given, said",
    [
        ({"transfer": "mask"}, "transfer is now method"),
        ({"prompt_steps": 5}, r'prompt_steps is now settings=\{"steps"'),
        ({"budget": "quick"}, "give effort='quick'"),
        ({"budget": 0.5}, "budget is 0.5; it is a Budget"),
        ({"budget": pt.Budget(macs=0.4), "params": 0.5}, "give budget= or params, not both"),
        ({"settings": ["a"]}, "settings is .'a'.; it is a dict"),
        ({"settings": {"lr": -1.0}}, "setting lr is -1.0; it is a positive number"),
        ({"speed": 1}, "adapt has no argument 'speed'"),
    ],
)
def test_a_wrong_argument_of_adapt_is_named(given, said, tmp_path):
    with pytest.raises(UsageError, match=said):
        pt.adapt("nowhere", "digits", out=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_masks_need_a_prompt_and_one_budget(entries):
    entry = pt.load_hypernet(entries())
    prompt, half = entry.prompt(), pt.Budget(macs=0.5)
    with pytest.raises(UsageError, match="budget is 'quick'; it is a Budget"):
        entry.generate_masks(prompt, budget="quick")
    with pytest.raises(UsageError, match="give budget= or macs, not both"):
        entry.generate_masks(prompt, half, macs=0.5)
    with pytest.raises(UsageError, match="prompt is None; it is a Prompt"):
        entry.generate_masks(None, half)


@pytest.mark.parametrize("names", ["layer1.*", [1]])
def test_layers_to_keep_are_a_list_of_names(names):
    with pytest.raises(UsageError, match="keep_layers is .*; it is a list of names"):
        pt.Budget(macs=0.5, keep_layers=names)
