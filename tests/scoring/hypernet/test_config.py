import json

import pytest

from pass_transfer.errors import UsageError
from pass_transfer.scoring.hypernet import HypernetConfig


@pytest.mark.parametrize(
    "change, word",
    [
        ({"prior": "l3"}, "l1, none"),
        ({"core": "gru"}, "lstm, conv, mlp"),
        ({"hidden": 0}, "hidden"),
        ({"encoder": (8, 0)}, "encoder"),
        ({"iterations": 0}, "iterations"),
        ({"reference_density": 0}, "reference_density"),
        ({"reference_density": 1.1}, "reference_density"),
    ],
)
def test_a_shape_that_makes_no_sense_is_refused(change, word):
    with pytest.raises(UsageError, match=word):
        HypernetConfig(**change)


def test_a_shape_comes_back_from_json():
    config = HypernetConfig(hidden=32, encoder=(4, 8))
    assert HypernetConfig.from_saved(json.loads(json.dumps(vars(config)))) == config


def test_the_name_that_version_0_1_0_had_for_a_field_is_read():
    assert HypernetConfig.from_saved({"hears_prompt": False}) == HypernetConfig(uses_prompt=False)
    with pytest.raises(UsageError, match="sees_prompt"):
        HypernetConfig.from_saved({"sees_prompt": False})
