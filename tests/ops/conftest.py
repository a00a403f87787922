"""Both implementations of the operators for tests, and how near they have to be."""

import importlib
import importlib.util

import pytest
import torch

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
    importlib.import_module("pass_transfer.ops.compiled")

    return torch.ops.pass_transfer


class Accuracy:
    """What float64 gives, and how near float32 has to come to it."""

    NEAR = 2e-5  # of a tensor's largest element
    # Of the size of an element's terms, two roundings of float32: where they cancel, drawn
    # problems come to two thirds of it.
    ROUNDING = 2 * 2**-24

    @classmethod
    def near(cls, value, reference, size=None):
        """Every element is within 2e-5 of the reference's largest.

        Or, where that is what is left of a sum that cancels, within float32's rounding of its
        terms. `size` says how large the terms of each element are: their absolute values,
        added up in float64 (or `together`). They allow more than 2e-5 only where the largest
        element of the reference is less than a 168th of the largest size.
        """
        assert value.shape == reference.shape
        if not reference.numel():
            return
        error = (value.double() - reference).abs().max().item()
        allowed = cls.NEAR * reference.abs().max().item()
        if size is not None:
            allowed = max(allowed, cls.ROUNDING * size.max().item())
        assert error <= allowed

    @staticmethod
    def in_float64(layer, leaves, upstream):
        """What a layer of these leaves gives, and their gradients."""
        leaves = [None if t is None else t.detach().double().requires_grad_() for t in leaves]
        y = layer(*leaves)
        y.backward(upstream.double())
        return [y.detach(), *(None if t is None else t.grad for t in leaves)]

    @classmethod
    def sizes(cls, layer, leaves, upstream):
        """The sizes of the terms of what in_float64 gives.

        A layer that multiplies and adds makes of absolute values the sums of absolute values.
        """
        absolute = [None if t is None else t.detach().abs() for t in leaves]
        return cls.in_float64(layer, absolute, upstream.abs())

    @staticmethod
    def spread(mask, like):
        """A mask (C,) at every position (B, C, H, W): its gradient is not added up yet."""
        return None if mask is None else mask.detach()[:, None, None].expand_as(like)

    @staticmethod
    def together(size):
        """The size of a sum over positions (B, C, H, W), made in float64, of rounded values.

        Independent roundings add up in squares.
        """
        return size.square().sum((0, 2, 3)).sqrt()


@pytest.fixture(scope="session")
def accuracy():
    """How near the operators have to be."""
    return Accuracy


# What an operator aliases; and shapes, strides and dtypes as they are known before it runs.
WITHOUT_DATA = ("test_schema", "test_faketensor")


@pytest.fixture(scope="session")
def check_without_data():
    """torch's own check of what an operator says about its results before it runs."""

    def check(operator, **arguments):
        torch.library.opcheck(operator.default, (), arguments, test_utils=WITHOUT_DATA)

    return check
