"""Errors of runs on many machines, and of runs that go on from an earlier one."""

from __future__ import annotations

from tests.support.error_row import Row

ROWS: dict[str, list[Row]] = {
    "Many machines": [
        Row(
            "a scheduler that is none",
            "sweep good.onnx --ratio 0.5 --scheduler elsewhere",
            "'elsewhere' is no scheduler",
            "give local, local:4, or tcp://HOST:8786, where dask scheduler listens",
        ),
        Row(
            "a scheduler for no workers",
            "good.onnx --ratio 0.5 --scheduler local:0",
            "'local:0' is no scheduler",
            "give local, local:4, or tcp://HOST:8786, where dask scheduler listens",
        ),
    ]
}
