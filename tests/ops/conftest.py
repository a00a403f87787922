"""Both implementations of the operators, for tests that run on each."""

import importlib.util

import pytest

from pass_transfer.ops import kernels

BUILT = importlib.util.find_spec("pass_transfer._C") is not None


@pytest.fixture(params=["compiled", "reference"])
def implementation(request, monkeypatch):
    """The operators run on this implementation."""
    if request.param == "compiled" and not BUILT:
        pytest.skip("the extension is not built")
    choice = kernels.Kernels(("cpu",) if request.param == "compiled" else (), request.param)
    monkeypatch.setattr(kernels, "chosen", lambda: choice)
    return request.param


@pytest.fixture
def operators():
    """torch.ops.pass_transfer, with shapes and gradients registered."""
    if not BUILT:
        pytest.skip("the extension is not built")
    import torch

    import pass_transfer.ops.compiled  # noqa: F401

    return torch.ops.pass_transfer
