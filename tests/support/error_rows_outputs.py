"""Errors in the files that a command writes."""

from __future__ import annotations

from tests.support.error_row import Row

ROWS: dict[str, list[Row]] = {
    "Files to write": [
        Row(
            "a size of data files that is none",
            "good.onnx --ratio 0.5 --data-chunk much",
            "data chunk 'much' is no size",
            "500MB or 2GB, say",
        ),
        Row(
            "data files without room",
            "good.onnx --ratio 0.5 --data-chunk 0",
            "--data-chunk must be above 0, not 0",
            "2GB, say",
        ),
        Row(
            "the output is the input",
            "good.onnx --ratio 0.5 -o good.onnx",
            "good.onnx: is the input, which is never changed",
            "choose another output name",
        ),
        Row(
            "the output is a folder",
            "good.onnx --ratio 0.5 -o folder",
            "folder: is a folder, not a file",
            "name a file in it, say folder/model.onnx",
        ),
        Row(
            "the folder does not exist",
            "good.onnx --ratio 0.5 -o no/out.onnx",
            "no/out.onnx: the folder no does not exist",
            "create it first",
        ),
        Row(
            "the output is a device",
            "good.onnx --ratio 0.5 -o /dev/null",
            "/dev/null: is not a regular file",
            "name a file to write",
        ),
        Row(
            "the output exists and nobody named it",
            "other.onnx --ratio 0.5",
            "other.pruned.onnx: exists already",
            "--force replaces it, -o names another file",
        ),
        Row(
            "the plan is the input",
            "good.onnx --ratio 0.5 --plan good.onnx",
            "good.onnx: is the input, which is never changed",
            "choose another output name",
        ),
        Row(
            "plan and model in one file",
            "good.onnx --ratio 0.5 --plan p -o p",
            "p: is named for two outputs",
            "choose another name for one of them",
        ),
    ]
}
