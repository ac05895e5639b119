"""The exceptions of onnxprune. This module imports nothing, so that every other module can import it.

Every exception has a one-line message (what is wrong, and where), a hint (what to do about it), and the exit status of
the command line.
"""

from __future__ import annotations


class OnnxPruneError(Exception):
    """Base class of all errors that are reported to the user in one line.

    Args:
        message: What is wrong and where; line breaks are replaced by spaces.
        hint: What to do about it; by default the usual hint for errors of this class.

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
    """Invalid input of the caller: an unreadable file, an unknown name, a value out of range."""

    exit_code: int = 2


class RunError(InputError):
    """onnxruntime rejects a model or its inputs, crashes, or exceeds a limit.

    Args:
        message: The message of onnxruntime, or the reason for which it ended.
        hint: What to do about it.
        fatal: Whether it crashed or exceeded a limit, so that another run would fail in the same way.

    Attributes:
        fatal: See above.
    """

    usual_hint: str = "give inputs that the model takes, with --calib or --input-shape"

    def __init__(self, message: str, hint: str | None = None, fatal: bool = False) -> None:
        super().__init__(message, hint)
        self.fatal = fatal

    def __reduce__(self) -> tuple[type[OnnxPruneError], tuple[object, ...]]:
        """Keeps hint and `fatal` when the error crosses a process boundary."""
        return type(self), (self.message, self.hint, self.fatal)


class GateError(OnnxPruneError):
    """The pruned model misses a gate, or a strict run has a warning, so it is not written."""

    exit_code: int = 5
    usual_hint: str = "keep_anyway writes a model that misses a gate"


class TimeLimitError(OnnxPruneError):
    """The run reached its time limit, so nothing was written."""

    exit_code: int = 5
    usual_hint: str = "a larger time_limit lets it finish"


class ModelError(InputError):
    """A file is not an ONNX model, or the model is inconsistent."""

    usual_hint: str = "export the model again"


class DataError(InputError):
    """Calibration data cannot be read or do not fit the model."""

    usual_hint: str = "give what the model takes, say --calib FILE.npz with an array for each input by its name"


class PlanError(InputError):
    """A plan cannot be read or does not fit the model."""

    usual_hint: str = "onnxprune MODEL --ratio R --plan FILE writes one"


class OutputError(OnnxPruneError):
    """A file cannot be written: the disk is full, or permission is missing. Existing files are unchanged."""

    exit_code: int = 2
    usual_hint: str = "see whether the disk is there and in order"


class VerificationError(OnnxPruneError):
    """The pruned model is invalid, does not run on inputs that the original accepts, or has another interface."""

    exit_code: int = 3
    usual_hint: str = "nothing was written; please report it with what onnxprune inspect --anonymise MODEL writes"


class InternalError(OnnxPruneError):
    """A bug of the program."""

    usual_hint: str = "please report it with the traceback and what onnxprune inspect --anonymise MODEL writes"
