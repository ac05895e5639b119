"""HDF5 files, and the archives of Keras that hold one."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from onnxprune.planning.checkpoints.arrays import Array, cut_array, imported
from onnxprune.planning.checkpoints.cuts import Cut


class HdfFile:
    """An HDF5 file of Keras or of anything else; a dataset is a tensor."""

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        self._h5py = imported("h5py", "h5py")
        self._data = path.read_bytes() if data is None else data
        self._arrays: dict[str, Array] = {}
        with self._h5py.File(io.BytesIO(self._data), "r") as file:
            file.visititems(self._visit)

    def _visit(self, name: str, item: Any) -> None:
        if isinstance(item, self._h5py.Dataset) and item.dtype.kind in "fiub":
            self._arrays[name] = item[()]

    def arrays(self) -> Mapping[str, Array]:
        """See `CheckpointFile`."""
        return self._arrays

    def write(self, out: BinaryIO, cuts: Mapping[str, Cut]) -> None:
        """See `CheckpointFile`."""
        out.write(self.changed(cuts))

    def changed(self, cuts: Mapping[str, Cut]) -> bytes:
        """The bytes of the file with some of the tensors cut."""
        buffer = io.BytesIO()
        with self._h5py.File(io.BytesIO(self._data), "r") as old, self._h5py.File(buffer, "w") as new:
            for key in old:
                old.copy(key, new)
            _copy_attributes(old, new)
            for name, cut in cuts.items():
                attributes = dict(new[name].attrs)
                del new[name]
                new.create_dataset(name, data=cut_array(self._arrays[name], cut)).attrs.update(attributes)
            if "model_config" in new.attrs:
                config = json.loads(new.attrs["model_config"])
                new.attrs["model_config"] = json.dumps(_resized(config, self._arrays, cuts))
        return buffer.getvalue()


class KerasFile:
    """A ``.keras`` archive: the configuration of the layers, and their weights in HDF5."""

    WEIGHTS, CONFIG = "model.weights.h5", "config.json"

    def __init__(self, path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            self._entries = {name: archive.read(name) for name in archive.namelist()}
        self._weights = HdfFile(path, self._entries[self.WEIGHTS])

    def arrays(self) -> Mapping[str, Array]:
        """See `CheckpointFile`."""
        return self._weights.arrays()

    def write(self, out: BinaryIO, cuts: Mapping[str, Cut]) -> None:
        """See `CheckpointFile`."""
        config = _resized(json.loads(self._entries[self.CONFIG]), self._weights.arrays(), cuts)
        entries = self._entries | {self.WEIGHTS: self._weights.changed(cuts), self.CONFIG: json.dumps(config).encode()}
        with zipfile.ZipFile(out, "w") as archive:
            for name, data in entries.items():
                archive.writestr(zipfile.ZipInfo(name), data)


def _copy_attributes(old: Any, new: Any) -> None:
    for key, value in old.attrs.items():
        new.attrs[key] = value


def _resized(config: Any, arrays: Mapping[str, Array], cuts: Mapping[str, Cut]) -> Any:
    """The configuration of a Keras model with the widths that its layers have left.

    A layer's kernel is a dataset below its name; its last axis has the filters or units.
    """
    if isinstance(config, list):
        return [_resized(one, arrays, cuts) for one in config]
    if not isinstance(config, dict):
        return config
    found = {key: _resized(one, arrays, cuts) for key, one in config.items() if key != "build_config"}
    for key in ("filters", "units"):
        if key in found and isinstance(found.get("name"), str):
            width = _width(found["name"], found[key], arrays, cuts)
            found[key] = found[key] if width is None else width
    return found


def _width(layer: str, before: int, arrays: Mapping[str, Array], cuts: Mapping[str, Cut]) -> int | None:
    """How many outputs are left of a layer; None where nothing was cut."""
    for name, cut in cuts.items():
        shape = arrays[name].shape
        last = len(shape) - 1
        if layer in name.split("/") and last > 0 and shape[last] == before and last in cut.kept:
            return len(cut.kept[last])
    return None
