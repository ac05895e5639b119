"""The folder of a sweep: what is done of it, the models that are kept, and by what a later sweep recognises both."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxprune import __version__
from onnxprune.errors import InputError, OutputError
from onnxprune.model.atomic_write import atomic_write
from onnxprune.model.stored_files import stored_files
from onnxprune.pipeline.checksums import checksum, data_checksums, has_objects
from onnxprune.report.sweep import SCHEMA, SweepReport, Variant

JSON, CSV = "sweep.json", "sweep.csv"
"""Files of a sweep besides the models."""


class SweepFolder:
    """The files of a sweep."""

    def __init__(self, path: Path, model: str) -> None:
        """Makes the folder where there is none.

        Args:
            path: The folder.
            model: Name of the original without its suffix; names of models begin with it.

        Raises:
            InputError: It cannot be made, is no folder, or holds another file of the name `JSON`.
        """
        self._path, self._model = path, model
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: is a file, not a folder", "name a folder for what the sweep writes")
        if not path.parent.is_dir():
            raise InputError(f"{path}: the folder {path.parent} does not exist", "create it first")
        try:
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"{path}: cannot be made: {error.strerror or error}") from None
        self._before = self._read()

    def known(self, key: str | None) -> Variant | None:
        """What an earlier sweep found of a variant; None where it did not, or its model is gone."""
        found = None if key is None else self._before.get(key)
        if found is not None and found.model is not None and not (self._path / found.model).is_file():
            return None
        return found

    def file(self, variant: str) -> str:
        """A name for a variant's model that no file has: what is there may be of a sweep with other options."""
        words = re.sub(r"[^A-Za-z0-9.]+", "-", variant).strip("-")
        names = (f"{self._model}.{words}{'' if n == 1 else f'-{n}'}.onnx" for n in itertools.count(1))
        return next(name for name in names if not (self._path / name).exists())

    def path(self, name: str) -> Path:
        """Path of a file in the folder."""
        return self._path / name

    def remove(self, name: str) -> None:
        """Deletes a model, with its external data."""
        try:
            for file in stored_files(self._path / name):
                Path(file.path).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{self._path / name}: cannot be removed: {error.strerror or error}") from error

    def write(self, report: SweepReport) -> None:
        """Writes what is done: each file whole or not at all.

        Variants of earlier sweeps that were not asked for now stay in the file, for later ones.
        """
        keys = {v.key for v in report.variants}
        others = [v.to_dict() for key, v in self._before.items() if key not in keys]
        data = {**report.to_dict(), "others": others}
        for name, text in ((JSON, json.dumps(data, indent=2, allow_nan=False) + "\n"), (CSV, report.to_csv())):
            with atomic_write(self._path / name) as made:
                made.new().write(text.encode())
                made.publish(self._path / name)

    def _read(self) -> dict[str, Variant]:
        path = self._path / JSON
        if not path.exists():
            return {}
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            rows = [Variant.from_dict(row) for row in [*data["variants"], *data["others"]]]
            readable = data["schema"] == SCHEMA
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            readable = False
        if not readable:
            raise InputError(f"{path}: is not what a sweep wrote", "name another folder, or remove that file")
        return {row.key: row for row in rows if row.key is not None and row.failed is None}


def variant_key(model: str, options: Mapping[str, Any], repair_samples: int) -> str | None:
    """Checksum of what a variant depends on; None where that is not known: with arrays or functions of a caller.

    Args:
        model: Checksum of the model.
        options: The options, as JSON data.
        repair_samples: Samples that repairs learn from at most.
    """
    if has_objects(options):
        return None
    data = {"model": model, "options": options, "repair_samples": repair_samples, "files": data_checksums(options)}
    return checksum({**data, "version": __version__})
