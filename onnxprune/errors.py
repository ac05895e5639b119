"""The exceptions of onnxprune. This module imports nothing, so that every other module can import it.

Every exception has a one-line message (what is wrong, and where), a hint (what to do about it), and the exit status of
the command line. Messages name options as their reader writes them (`option`, `Words`).
"""

from __future__ import annotations

_NAME_ONLY = object()
_OPTIONS = {"global_ranking": "global", "input_shapes": "input-shape", "tensor_map": "map", "client": "scheduler"}
"""Names on the command line that are others than in Python."""
_OPEN, _BETWEEN, _CLOSE = "\x02", "\x03", "\x04"


def spoken(python: str, command_line: str) -> str:
    """A part of a message that reads otherwise in Python and on the command line; for `Words`."""
    return f"{_OPEN}{python}{_BETWEEN}{command_line}{_CLOSE}"


def option(name: str, value: object = _NAME_ONLY) -> str:
    """An option in a message, as its reader writes it: ``repair='none'`` in Python, ``--repair none`` in a shell.

    Args:
        name: The name in Python.
        value: The value that the reader is to give; ``...`` stands for any; left away, only the name is meant.
    """
    flag = _OPTIONS.get(name, name.replace("_", "-"))
    if value is _NAME_ONLY:
        return spoken(name, f"--{flag}")
    if value is False:
        return spoken(f"{name}=False", f"--no-{flag}")
    if value is True or value is ...:
        return spoken(f"{name}={'...' if value is ... else value}", f"--{flag}")
    if isinstance(value, dict):
        python = f"{name}={value}".replace("Ellipsis", "...")
        return spoken(python, " ".join(f"--{flag} {_entry(*pair)}" for pair in value.items()))
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return spoken(f"{name}={value!r}", f"--{flag} {shown}")


def _entry(key: str, value: object) -> str:
    """An entry of a mapping on the command line: ``drift=0.05``, or ``input:1,3,8,8``."""
    if isinstance(value, tuple):
        return f"{key}:{','.join('...' if size is ... else str(size) for size in value)}"
    return f"{key}={value}"


GIVE_DATA = f"give some with {option('calib', ...)}"
"""Hint where calibration data are missing."""


class Words(str):
    """A message in the words of Python, which also knows those of the command line.

    Attributes:
        command_line: The message in the words of the command line.
    """

    _source: str

    def __new__(cls, text: str) -> Words:
        """Reads a text with parts from `spoken` and `option`."""
        source = text._source if isinstance(text, Words) else text
        made = super().__new__(cls, _read(source, 0))
        made._source = source
        return made

    def __reduce__(self) -> tuple[type[Words], tuple[str]]:
        return Words, (self._source,)

    @property
    def command_line(self) -> str:
        """See the class."""
        return _read(self._source, 1)

    @property
    def source(self) -> str:
        """The text that it was made of, for a longer message."""
        return self._source


def on_command_line(text: str) -> str:
    """A text in the words of the command line, if it knows them."""
    return text.command_line if isinstance(text, Words) else text


def source_of(text: str | None) -> str:
    """What `Words` were made of; another text as it is."""
    return text.source if isinstance(text, Words) else str(text)


def _read(text: str, side: int) -> str:
    """One side of each spoken part of a text."""
    first, *others = text.split(_OPEN)
    read = first
    for other in others:
        part, _, rest = other.partition(_CLOSE)
        read += part.split(_BETWEEN)[side] + rest
    return read


class OnnxPruneError(Exception):
    """Base class of all errors that are reported to the user in one line.

    Args:
        message: What is wrong and where; line breaks are replaced by spaces. Options in it are named by `option`.
        hint: What to do about it; by default the usual hint for errors of this class.

    Attributes:
        message: The one-line message, which is also `str(error)`, in the words of Python.
        hint: What to do about it, in the same words.
        exit_code: Exit status of the command line for this kind of error.
    """

    exit_code: int = 4
    usual_hint: str = spoken("help(onnxprune.prune)", "onnxprune --help") + " tells what may be given"

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = Words(message if isinstance(message, Words) else " ".join(message.split()))
        self.hint = Words(hint or self.usual_hint)
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

    usual_hint: str = f"give inputs that the model takes, with {option('calib')} or {option('input_shapes')}"

    def __init__(self, message: str, hint: str | None = None, fatal: bool = False) -> None:
        super().__init__(message, hint)
        self.fatal = fatal

    def __reduce__(self) -> tuple[type[OnnxPruneError], tuple[object, ...]]:
        """Keeps hint and `fatal` when the error crosses a process boundary."""
        return type(self), (self.message, self.hint, self.fatal)


class GateError(OnnxPruneError):
    """The pruned model misses a gate, or a strict run has a warning, so it is not written."""

    exit_code: int = 5
    usual_hint: str = f"{option('keep_anyway', True)} writes a model that misses a gate"


WITH_WARNINGS = f"without {option('strict')} a model that comes with warnings is written"
"""Hint where a strict run stopped at its warnings, and no gate is missed."""
WITH_A_GATE_MISSED = f"{option('keep_anyway', True)} in place of {option('strict')} writes it"
"""Hint where a strict run missed a gate, which is a warning too."""


class TimeLimitError(OnnxPruneError):
    """The run reached its time limit, so nothing was written."""

    exit_code: int = 5
    usual_hint: str = f"a larger {option('time_limit')} lets it finish"


class ModelError(InputError):
    """A file is not an ONNX model, or the model is inconsistent."""

    usual_hint: str = "export the model again"


class DataError(InputError):
    """Calibration data cannot be read or do not fit the model."""

    usual_hint: str = (
        f"give what the model takes, say {option('calib', 'FILE.npz')} with an array for each input by its name"
    )


class PlanError(InputError):
    """A plan cannot be read or does not fit the model."""

    usual_hint: str = spoken("onnxprune.plan makes one", "onnxprune MODEL --ratio R --plan FILE writes one")


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
