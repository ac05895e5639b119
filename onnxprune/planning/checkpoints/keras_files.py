"""HDF5 files, and the archives of Keras that hold one."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
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


GATES = {"LSTM": 4, "GRU": 3, "ConvLSTM1D": 4, "ConvLSTM2D": 4, "ConvLSTM3D": 4}
"""How often the kernel of a layer has its units, along its last axis; once where it is not named here."""
WIDTHS = ("filters", "units", "output_dim")
"""What the configuration of a layer calls its width."""


def _resized(config: Any, arrays: Mapping[str, Array], cuts: Mapping[str, Cut], below: str = "") -> Any:
    """The configuration of a Keras model with the widths that its layers have left.

    Keras 3 stores what a layer holds below ``layers/`` and the name of its class, with a number from the second on, as
    `saving_lib` counts them; the files of Keras 2 have the layer's own name.

    Args:
        config: The configuration, or a part of it.
        arrays: The weights, by the names in the file.
        cuts: How they are cut.
        below: The path of the layer that the part is of.
    """
    if isinstance(config, list):
        return [_resized(one, arrays, cuts, below) for one in config]
    if not isinstance(config, dict):
        return config
    found = {key: _resized(one, arrays, cuts, below) for key, one in config.items() if key != "build_config"}
    if isinstance(config.get("layers"), list):
        paths = _paths(config["layers"], below)
        found["layers"] = [_resized(one, arrays, cuts, at) for one, at in zip(config["layers"], paths, strict=True)]
    if isinstance(found.get("config"), dict):
        stored = [name for name in cuts if name.startswith(below)]
        if not (below and any(name.startswith(below) for name in arrays)):
            stored = [name for name in cuts if str(found["config"].get("name")) in name.split("/")]
        for key in WIDTHS:
            if isinstance(before := found["config"].get(key), int):
                width = _width(str(config.get("class_name", "")), before, stored, arrays, cuts)
                found["config"][key] = before if width is None else width
    return found


def _paths(layers: Sequence[Any], below: str) -> list[str]:
    """Where the weights of each layer of a model are in the file."""
    counted = Counter[str]()
    found = []
    for layer in layers:
        name = _snake_case(str(layer.get("class_name", ""))) if isinstance(layer, dict) else ""
        found.append(f"{below}layers/{name}{f'_{counted[name]}' if counted[name] else ''}/")
        counted[name] += 1
    return found


def _width(
    kind: str, before: int, names: Sequence[str], arrays: Mapping[str, Array], cuts: Mapping[str, Cut]
) -> int | None:
    """How many outputs are left of a layer, by its kernels; None where none was cut along them."""
    times = GATES.get(kind, 1)
    for name in names:
        shape = arrays[name].shape
        axis = len(shape) - (2 if kind.endswith("Transpose") else 1)
        if len(shape) > 1 and shape[axis] == times * before and axis in cuts[name].kept:
            return len(cuts[name].kept[axis]) // times
    return None


def _snake_case(name: str) -> str:
    """The name of a class as Keras writes it in files: ``BatchNormalization`` is ``batch_normalization``."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
