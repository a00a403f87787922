import inspect

import pytest

from pass_transfer import errors

OURS = [
    c for _, c in inspect.getmembers(errors, inspect.isclass) if c is not errors.PassTransferError
]


@pytest.mark.parametrize("kind", OURS)
def test_one_except_catches_every_error_and_its_message_is_kept(kind):
    with pytest.raises(errors.PassTransferError, match="^what to do$"):
        raise kind("what to do")


@pytest.mark.parametrize("kind", OURS)
def test_only_wrong_usage_exits_with_two(kind):
    assert kind.exit_code == (2 if kind is errors.UsageError else 1)


@pytest.mark.parametrize(
    "kind, builtin",
    [
        ("UsageError", ValueError),
        ("TaskError", ValueError),
        ("MaskError", ValueError),
        ("StorageError", OSError),
        ("DivergedError", ArithmeticError),
    ],
)
def test_callers_may_catch_the_builtin_they_expect(kind, builtin):
    assert issubclass(getattr(errors, kind), builtin)
