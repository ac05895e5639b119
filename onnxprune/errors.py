"""The exceptions that onnxprune raises on purpose. Imports nothing, so that anything may import it.

Every one carries a one-line message (what is wrong, and where), a hint where there is something to do
about it, and the exit status that the command line ends with.
"""

from __future__ import annotations


class OnnxPruneError(Exception):
    """Something went wrong that the caller can be told about in one line.

    Args:
        message: What is wrong and where; line breaks are folded into spaces.
        hint: What to do about it, if anything is known.

    Attributes:
        message: The one-line message, which is also `str(error)`.
        hint: What to do about it, or None.
        exit_code: Exit status of the command line for this kind of error.
    """

    exit_code: int = 4

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = " ".join(message.split())
        self.hint = hint
        super().__init__(self.message)

    def __reduce__(self) -> tuple[type[OnnxPruneError], tuple[object, ...]]:
        """Keeps the hint when the error crosses a process boundary."""
        return type(self), (self.message, self.hint)


class InputError(OnnxPruneError):
    """The caller gave something unusable: a bad file, a wrong name, a value out of range."""

    exit_code: int = 2


class RunError(InputError):
    """onnxruntime does not take a model or its inputs, crashes on them, or goes beyond a limit.

    Args:
        message: What onnxruntime says, or how it ended.
        hint: What to do about it, if anything is known.
        fatal: Whether it crashed or went beyond a limit, and would do so again.

    Attributes:
        fatal: The same.
    """

    def __init__(self, message: str, hint: str | None = None, fatal: bool = False) -> None:
        super().__init__(message, hint)
        self.fatal = fatal

    def __reduce__(self) -> tuple[type[OnnxPruneError], tuple[object, ...]]:
        """Keeps everything when the error crosses a process boundary."""
        return type(self), (self.message, self.hint, self.fatal)


class GateError(OnnxPruneError):
    """The pruned model is further from the original than a gate allows, so it is not written."""

    exit_code: int = 1


class OutputError(OnnxPruneError):
    """A file cannot be written: the disk is full, the folder is closed. What was there before is still there."""

    exit_code: int = 2


class VerificationError(OnnxPruneError):
    """The pruned model fails where the original did not: it is invalid, does not run, or changed its interface."""

    exit_code: int = 3
