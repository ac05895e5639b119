"""HDF5 files, and the archives of Keras that hold one."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from onnxprune.planning.checkpoints.arrays import Array, cut_array, imported
from onnxprune.planning.checkpoints.cuts import Cut
from onnxprune.planning.checkpoints.keras_optimizer import OPTIMIZERS, state_cuts
from onnxprune.planning.checkpoints.keras_paths import OWN_NAMES, layer_paths


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
        """See `CheckpointFile`; without the states of an optimizer, which follow their weights."""
        return {name: array for name, array in self._arrays.items() if name.partition("/")[0] not in OPTIMIZERS}

    def write(self, out: BinaryIO, cuts: Mapping[str, Cut]) -> Sequence[str]:
        """See `CheckpointFile`."""
        data, warnings = self.changed(cuts, None)
        out.write(data)
        return warnings

    def changed(self, cuts: Mapping[str, Cut], config: Any) -> tuple[bytes, Sequence[str]]:
        """The bytes of the file with some of the tensors cut, and what to warn of.

        Args:
            cuts: The cuts.
            config: The configuration of the model; None where it is not known.
        """
        buffer = io.BytesIO()
        states = state_cuts(config, self._arrays, cuts)
        with self._h5py.File(io.BytesIO(self._data), "r") as old, self._h5py.File(buffer, "w") as new:
            for key in old:
                if states is not None or key not in OPTIMIZERS:
                    old.copy(key, new)
            _copy_attributes(old, new)
            for name, cut in {**cuts, **(states or {})}.items():
                attributes = dict(new[name].attrs)
                del new[name]
                new.create_dataset(name, data=cut_array(self._arrays[name], cut)).attrs.update(attributes)
            warnings = [] if states is not None else [_WITHOUT_STATES]
            if "model_config" in new.attrs:
                resized, more = _configuration(json.loads(new.attrs["model_config"]), self._arrays, cuts)
                new.attrs["model_config"] = json.dumps(resized)
                warnings += more
        return buffer.getvalue(), warnings


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

    def write(self, out: BinaryIO, cuts: Mapping[str, Cut]) -> Sequence[str]:
        """See `CheckpointFile`."""
        config = json.loads(self._entries[self.CONFIG])
        weights, warnings = self._weights.changed(cuts, config.get("config"))
        resized, more = _configuration(config, self._weights.arrays(), cuts)
        entries = self._entries | {self.WEIGHTS: weights, self.CONFIG: json.dumps(resized).encode()}
        with zipfile.ZipFile(out, "w") as archive:
            for name, data in entries.items():
                archive.writestr(zipfile.ZipInfo(name), data)
        return [*warnings, *more]


_WITHOUT_STATES = "the states of the optimizer are left out: nothing tells which weights they belong to"


def _configuration(config: Any, arrays: Mapping[str, Array], cuts: Mapping[str, Cut]) -> tuple[Any, list[str]]:
    """The configuration of what is left of a model, and what to warn of."""
    resized = _resized(config, arrays, cuts)
    scaled = "divides by the root of a smaller width than the pruned model does, until its scale is made up for"
    return resized, [f"layer {name!r} {scaled}" for name in _scales(config, resized)]


def _copy_attributes(old: Any, new: Any) -> None:
    for key, value in old.attrs.items():
        new.attrs[key] = value


GATES = {"LSTM": 4, "GRU": 3, "ConvLSTM1D": 4, "ConvLSTM2D": 4, "ConvLSTM3D": 4}
"""How often the kernel of a layer has its units, along its last axis; once where it is not named here."""
WIDTHS = ("filters", "units", "output_dim")
"""What the configuration of a layer calls its width."""

HEADS = {
    "MultiHeadAttention": {"num_heads": ("query", 1), "key_dim": ("query", 2), "value_dim": ("value", 2)},
    "GroupedQueryAttention": {
        "num_query_heads": ("query", 1),
        "num_key_value_heads": ("key", 1),
        "head_dim": ("query", 2),
    },
}
"""What the configuration of attention calls the axes of the kernels of its parts."""
SCALES = ("key_dim", "head_dim")
"""Widths by whose root attention divides."""


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
        paths = layer_paths(config["layers"], below)
        found["layers"] = [_resized(one, arrays, cuts, at) for one, at in zip(config["layers"], paths, strict=True)]
    if isinstance(found.get("config"), dict):
        stored = [name for name in cuts if name.startswith(below)]
        if not (below and any(name.startswith(below) for name in arrays)):
            stored = [name for name in cuts if str(found["config"].get("name")) in name.split("/")]
        for key in WIDTHS:
            if isinstance(before := found["config"].get(key), int):
                width = _width(str(config.get("class_name", "")), before, stored, arrays, cuts)
                found["config"][key] = before if width is None else width
        kind = str(config.get("class_name"))
        for key, (part, axis) in HEADS.get(OWN_NAMES.get(kind, kind), {}).items():
            own = (n for n in stored if any(p.lstrip("_").startswith(part) for p in n.split("/")[-3:-1]))
            kernels = (n for n in own if arrays[n].ndim == 3 and axis in cuts[n].kept)
            if (name := next(kernels, None)) is not None:
                found["config"][key] = len(cuts[name].kept[axis])
    return found


def _scales(before: Any, after: Any) -> Iterator[str]:
    """Names of the layers that divide by the root of a width that is another one."""
    if isinstance(before, list):
        yield from (name for one, other in zip(before, after, strict=True) for name in _scales(one, other))
    elif isinstance(before, dict):
        if any(before.get(key) != after.get(key) for key in SCALES):
            yield str(before.get("name"))
        yield from (name for key, one in before.items() if key in after for name in _scales(one, after[key]))


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
