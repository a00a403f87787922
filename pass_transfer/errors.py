"""Every error this library raises on purpose.

All of them descend from PassTransferError, so one ``except`` catches them, and
each also descends from the built-in error a caller would expect. A message says
what was given, what is allowed, and what to do. The command line prints the
message and exits with `exit_code`.
"""

from __future__ import annotations


class PassTransferError(Exception):
    """Base of all errors raised by pass_transfer. `exit_code` is what the command line returns."""

    exit_code = 1


class _OfArgument(PassTransferError, ValueError):
    """About an argument; `argument` is its name, with which the message then begins."""

    def __init__(self, message: str, argument: str | None = None):
        super().__init__(message)
        self.argument = argument


class UsageError(_OfArgument):
    """An argument has a value that is not allowed; `argument` is its name, where there is one."""

    exit_code = 2


class TaskError(PassTransferError, ValueError):
    """A dataset cannot be found, read, or used as a classification task."""


class BackboneError(PassTransferError, ValueError):
    """A network or its weights are unknown, damaged, or do not fit together."""


class MaskError(_OfArgument):
    """Channel masks do not fit the network, or a budget, the `argument`, cannot be met."""


class KernelError(PassTransferError, ValueError):
    """Operators got tensors that do not fit, or kernels that are not there are asked for."""


class ZooError(PassTransferError, ValueError):
    """A zoo entry is unknown, incomplete, altered, or belongs to another network."""


class RunError(PassTransferError):
    """A run folder cannot be used: it exists, is not a run, or belongs to other settings."""


class HubError(PassTransferError):
    """The Hugging Face hub refused, could not be reached, or did not keep what it was sent."""


class DivergedError(PassTransferError, ArithmeticError):
    """Training produced a loss that is not a finite number."""


class StorageError(PassTransferError, OSError):
    """A file cannot be written or read: no permission, no space, or damaged content."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""
