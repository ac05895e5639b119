"""The exceptions that onnxprune raises on purpose. Imports nothing, so that anything may import it.

Every one carries a one-line message (what is wrong, and where), a hint where there is something to do
about it, and the exit status that the command line ends with.
"""

from __future__ import annotations


class OnnxPruneError(Exception):
    """Something went wrong that the caller can be told about in one line.

    Args:
        message: What is wrong and where; line breaks are folded into spaces.
        hint: What to do about it; by default what helps against most errors of this kind.

    Attributes:
        message: The one-line message, which is also `str(error)`.
        hint: What to do about it.
        exit_code: Exit status of the command line for this kind of error.
    """

    exit_code: int = 4
    usual_hint: str = "onnxprune --help tells what may be given"

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = " ".join(message.split())
        self.hint = hint or self.usual_hint
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

    usual_hint: str = "give inputs that the model takes, with --calib or --input-shape"

    def __init__(self, message: str, hint: str | None = None, fatal: bool = False) -> None:
        super().__init__(message, hint)
        self.fatal = fatal

    def __reduce__(self) -> tuple[type[OnnxPruneError], tuple[object, ...]]:
        """Keeps everything when the error crosses a process boundary."""
        return type(self), (self.message, self.hint, self.fatal)


class GateError(OnnxPruneError):
    """The pruned model is further from the original than a gate allows, so it is not written."""

    exit_code: int = 1
    usual_hint: str = "keep_anyway writes the model all the same"


class ModelError(InputError):
    """A file is no ONNX model, or the model does not hold together."""

    usual_hint: str = "export the model again"


class DataError(InputError):
    """Calibration data cannot be read, or do not fit the model."""

    usual_hint: str = "give what the model takes, say --calib FILE.npz with an array for each input by its name"


class PlanError(InputError):
    """A plan cannot be read, or does not fit the model."""

    usual_hint: str = "onnxprune MODEL --ratio R --plan FILE writes one"


class OutputError(OnnxPruneError):
    """A file cannot be written: the disk is full, the folder is closed. What was there before is still there."""

    exit_code: int = 2
    usual_hint: str = "see whether the disk is there and in order"


class VerificationError(OnnxPruneError):
    """The pruned model fails where the original does not: it is invalid, does not run, or changed its interface."""

    exit_code: int = 3
    usual_hint: str = "nothing was written; please report it with what onnxprune inspect --anonymise MODEL writes"


class InternalError(OnnxPruneError):
    """A fault of the program itself."""

    usual_hint: str = "please report it with the traceback and what onnxprune inspect --anonymise MODEL writes"
