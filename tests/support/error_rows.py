"""Every error that a user can cause, with the command that causes it (in the folder of `bad_files`) and what is printed.

`tools/error_table.py` makes tests/errors.md of it.
"""

from __future__ import annotations

from tests.support import (
    error_rows_command,
    error_rows_distributed,
    error_rows_inputs,
    error_rows_models,
    error_rows_outputs,
    error_rows_training,
    error_rows_vocabulary,
)
from tests.support.error_row import Row

__all__ = ["CIRCUMSTANCES", "ROWS", "Row"]

PARTS = (
    error_rows_command,
    error_rows_outputs,
    error_rows_models,
    error_rows_inputs,
    error_rows_vocabulary,
    error_rows_training,
    error_rows_distributed,
)
ROWS: dict[str, list[Row]] = {subject: rows for part in PARTS for subject, rows in part.ROWS.items()}
"""By what it is about; all end with exit code 2."""

DISK_FULL = Row(
    "the disk is full",
    "good.onnx --ratio 0.5 -o FILE",
    "FILE: cannot be written: No space left on device",
    "make room, or name a file on another disk",
)
NOT_WRITABLE = Row(
    "the folder may not be written to",
    "good.onnx --ratio 0.5 -o FILE",
    "FILE: the folder FOLDER is not writable",
    "name a file where you may write",
)
NOT_READABLE = Row(
    "the model may not be read", "FILE --ratio 0.5", "FILE: cannot be read: Permission denied", "may you read it?"
)
NOT_VERIFIED = Row(
    "the pruned model fails (exit code 3)",
    "good.onnx --ratio 0.5",
    "the pruned model does not run in onnxruntime: WHY",
    "nothing was written; please report it with what onnxprune inspect --anonymise MODEL writes",
)
INTERNAL = Row(
    "a fault of the program (exit code 4, with its traceback)",
    "good.onnx --ratio 0.5",
    "internal error: KIND: WHY",
    "please report it with the traceback and what onnxprune inspect --anonymise MODEL writes",
)
CIRCUMSTANCES = [DISK_FULL, NOT_WRITABLE, NOT_READABLE, NOT_VERIFIED, INTERNAL]
"""What lies not in the files: tested where such circumstances are made. FILE and the like stand for what it concerns."""
