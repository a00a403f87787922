import subprocess
import sys

import pytest

import pass_transfer as pt


def python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize(
    "module",
    [
        "pass_transfer",
        "pass_transfer.errors",
        "pass_transfer.files",
        "pass_transfer.zoo.describe",
        "pass_transfer.cli.main",
    ],
)
def test_importing_is_quick_because_torch_is_left_out(module):
    assert python(f"import sys, {module}; print('torch' in sys.modules)") == "False"


def test_every_public_name_is_there_and_listed():
    for name in pt.__all__:
        assert getattr(pt, name).__name__ == name and name in dir(pt)
    assert pt.__version__


@pytest.mark.parametrize(
    "name, module", [("adapt", "recipes.adapt"), ("tune_prompt", "scoring.prompt_tuning")]
)
def test_a_recipe_is_a_function_also_after_its_module_was_imported(name, module):
    code = f"import pass_transfer.{module}, pass_transfer as pt; print(callable(pt.{name}))"
    assert python(code) == "True"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = pt.no_such_name
