"""Checksums of what a run depends on: by them a later one recognises what is done."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from onnxprune.calibration.texts import SUFFIX, TOKENIZER
from onnxprune.common.shared_files import sha256
from onnxprune.model.model import Model
from onnxprune.model.stored_files import stored_files
from onnxprune.options.json_data import PYTHON
from onnxprune.runtime.session import Source

FILES = ("calib", "stats", "times", "metric", "loss")
"""Options that may name files, or functions in them."""


def model_checksum(source: Source) -> str:
    """SHA-256 of a model: of its files, where it has any.

    Raises:
        InputError: It cannot be read.
    """
    if isinstance(source, (str, os.PathLike)):
        return _of("".join(file.sha256 for file in stored_files(source)))
    proto = source.proto if isinstance(source, Model) else source
    assert isinstance(proto, onnx.ModelProto)
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()


def has_objects(options: Mapping[str, Any]) -> bool:
    """Whether options, as JSON data, were arrays or functions of a caller, of which nothing is known."""
    return any(isinstance(value, dict) and PYTHON in value for value in options.values())


def data_checksums(options: Mapping[str, Any]) -> dict[str, str]:
    """Checksums of the files that options, as JSON data, name: of data, of classes, of modules with functions."""
    return {name: _of("".join(map(_of_path, _named(str(options[name]))))) for name in FILES if options.get(name)}


def _named(text: str) -> list[str]:
    """The paths and other parts of what an option names."""
    if os.path.exists(text):
        return [text, *_tokenizers(text)]
    parts = []
    for part in text.split(","):
        head, equals, path = part.strip().partition("=")
        parts += [head, path] if equals else [part, *_tokenizers(part)]
        module, colon, _ = part.partition(":")
        parts += [source] if colon and (source := _source_of(module)) is not None else []
    return parts


def _tokenizers(path: str) -> list[str]:
    """The tokenizer beside a text."""
    return [os.path.join(os.path.dirname(path), TOKENIZER)] if path.endswith(SUFFIX) else []


def _source_of(module: str) -> str | None:
    """The file of a module in the current folder; None for any other, which is installed."""
    path = os.path.join(*module.split(".")) + ".py"
    return path if os.path.isfile(path) else None


def checksum(data: Any) -> str:
    """SHA-256 of JSON data."""
    return _of(json.dumps(data, sort_keys=True))


def _of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _of_path(path: str) -> str:
    """SHA-256 of a file; of a folder, of the names, sizes and times of what is in it; of anything else the name."""
    if os.path.isfile(path):
        return _of(path + sha256(path))
    if not os.path.isdir(path):
        return _of(path)
    entries = [(entry, entry.stat()) for entry in sorted(Path(path).rglob("*"))]
    return _of(path + repr([(str(e.relative_to(path)), s.st_size, s.st_mtime_ns) for e, s in entries]))
