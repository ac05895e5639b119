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
    ],
    "Runs that go on": [
        Row(
            "a folder with other files",
            "good.onnx --ratio 0.5 --work .",
            ".: has other files in it",
            "name a new folder, or an empty one",
        ),
        Row(
            "a folder for steps that is a file",
            "good.onnx --ratio 0.5 --work few.npz",
            "few.npz: is a file, not a folder",
            "name a folder for the steps of the run",
        ),
        Row(
            "a folder for steps in none",
            "good.onnx --ratio 0.5 --work nowhere/steps",
            "nowhere/steps: the folder nowhere does not exist",
            "create it first",
        ),
        Row(
            "steps that depend on the clock",
            "good.onnx --target latency=0.5 --work steps",
            "--work is for runs that take the same steps each time, and measured times differ: --times gives some that stay",
            "leave --work away",
        ),
        Row(
            "steps of a dry run",
            "good.onnx --ratio 0.5 --dry-run --work steps",
            "a dry run takes few steps, and keeps none",
            "leave --work or --dry-run away",
        ),
    ],
}
