"""Files of tensors: what is in them, and the same files with other tensors.

Nothing that is read is run: pickles are read by PyTorch's own reader of weights alone.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from onnxprune.errors import InputError
from onnxprune.planning.checkpoints.arrays import Array, CheckpointFile, cut_array
from onnxprune.planning.checkpoints.cuts import Cut
from onnxprune.planning.checkpoints.keras_files import HdfFile, KerasFile
from onnxprune.planning.checkpoints.torch_file import TorchFile


class NumpyFile:
    """An ``.npz`` file."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as stored:
            self._arrays = {name: stored[name] for name in stored.files}

    def arrays(self) -> Mapping[str, Array]:
        """See `CheckpointFile`."""
        return self._arrays

    def write(self, out: BinaryIO, cuts: Mapping[str, Cut]) -> Sequence[str]:
        """See `CheckpointFile`."""
        with zipfile.ZipFile(out, "w") as archive:  # as np.savez does, with no time in it
            for name, array in self._arrays.items():
                entry = zipfile.ZipInfo(f"{name}.npy")
                with archive.open(entry, "w", force_zip64=True) as stream:
                    left = cut_array(array, cuts[name]) if name in cuts else array
                    np.lib.format.write_array(stream, np.asanyarray(left), allow_pickle=False)
        return ()


_SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2}
_SIZES |= {"U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8}
_TYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "I32": np.int32, "I64": np.int64}
_RAW = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class SafetensorsFile:
    """A ``.safetensors`` file: eight bytes with the length of a JSON header, the header, and the tensors."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + size])
        self._metadata = header.pop("__metadata__", None)
        self._types = {name: entry["dtype"] for name, entry in header.items()}
        body = memoryview(data)[8 + size :]
        self._arrays = {name: self._array(body, entry) for name, entry in header.items()}

    def _array(self, data: memoryview, entry: Mapping[str, Any]) -> Array:
        start, end = entry["data_offsets"]
        kind = _TYPES.get(entry["dtype"], _RAW[_SIZES[entry["dtype"]]])
        found: Array = np.frombuffer(data[start:end], kind).reshape(entry["shape"])
        return found

    def arrays(self) -> Mapping[str, Array]:
        """See `CheckpointFile`."""
        return self._arrays

    def write(self, out: BinaryIO, cuts: Mapping[str, Cut]) -> Sequence[str]:
        """See `CheckpointFile`."""
        left = {n: cut_array(a, cuts[n]) if n in cuts else a for n, a in self._arrays.items()}
        header: dict[str, Any] = {} if self._metadata is None else {"__metadata__": self._metadata}
        at = 0
        for name, array in left.items():
            header[name] = {
                "dtype": self._types[name],
                "shape": list(array.shape),
                "data_offsets": [at, at + array.nbytes],
            }
            at += array.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        out.write(struct.pack("<Q", len(text)) + text)
        for array in left.values():
            out.write(np.ascontiguousarray(array).tobytes())
        return ()


FORMATS: dict[str, Callable[[Path], CheckpointFile]] = {
    ".npz": NumpyFile,
    ".safetensors": SafetensorsFile,
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), TorchFile),
    **dict.fromkeys((".h5", ".hdf5"), HdfFile),
    ".keras": KerasFile,
}
"""What opens a file, by the end of its name."""


def open_checkpoint(path: Path) -> CheckpointFile:
    """Opens a checkpoint by the end of its name.

    Raises:
        InputError: The end is unknown, or the file cannot be read.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file", "a checkpoint of the model that the plan is for")
    opener = FORMATS.get(path.suffix.lower())
    if opener is None:
        raise InputError(f"{path}: is no checkpoint of a known kind", f"one of {', '.join(FORMATS)}")
    try:
        return opener(path)
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be read as {path.suffix}: {reason}") from error
