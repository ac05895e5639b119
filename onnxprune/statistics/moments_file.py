"""File of moments: written once, read by later runs on the same model.

The file is an ``.npz`` archive without pickled objects: a JSON header and, for each layer, the number of rows, their
sum, the upper triangle of their covariance, and the number of zeros. Covariances are rounded to float32; the run that
writes the file continues with the rounded values, so that later runs give the same result.
"""

from __future__ import annotations

import hashlib
import json
import os
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import InputError, option
from onnxprune.layers.linear import LinearLayer
from onnxprune.model.atomic_write import atomic_write
from onnxprune.model.model import Model
from onnxprune.statistics.moments import Moments

VERSION = 2
SLACK = 1e-3
"""Tolerance for negative eigenvalues of a stored covariance, relative to its mean variance."""
_HEADER_BYTES = 2**20
"""Maximum size of all headers in an archive."""
_HINT = f"gather them again with {option('calib', ...)}"


def write(
    path: str | os.PathLike[str], model: Model, layers: Sequence[LinearLayer], moments: Mapping[str, Moments]
) -> None:
    """Writes the moments of a model's layers atomically; equal moments give equal bytes.

    Raises:
        OutputError: Writing failed.
    """
    known = [layer for layer in layers if layer.name in moments]
    arrays: dict[str, NDArray[Any]] = {"header": np.frombuffer(json.dumps(_header(model, known)).encode(), np.uint8)}
    for i, layer in enumerate(known):
        m = moments[layer.name]
        upper = np.triu_indices(m.gram.shape[1])
        arrays |= {
            f"{i}.count": np.array(m.count),
            f"{i}.total": m.total,
            f"{i}.zeros": m.zeros,
            f"{i}.covariance": np.stack([m.covariance(g)[upper] for g in range(len(m.gram))]).astype(np.float32),
        }
    with atomic_write(Path(path)) as file:
        np.savez(file.new(), **arrays)  # type: ignore[arg-type]
        file.publish(Path(path))


def read(path: str | os.PathLike[str], model: Model, layers: Sequence[LinearLayer]) -> dict[str, Moments]:
    """Reads the moments of a model's layers.

    Raises:
        InputError: The file cannot be read, is damaged, or was made from another model or by another version.
    """
    names = {layer.name: layer for layer in layers}
    try:
        _check_size(path, layers)
        with np.load(path, allow_pickle=False) as data:
            header = json.loads(bytes(data["header"]))
            if not isinstance(header, dict) or header.get("version") != VERSION:
                raise InputError(f"{path}: holds no statistics of version {VERSION}", _HINT)
            known = [names[name] for name in header.get("layers", []) if name in names]
            if header != _header(model, known):
                raise InputError(f"{path}: the statistics are of another model", "they fit one set of weights only")
            return {layer.name: _moments(data, i, (layer.groups, layer.columns)) for i, layer in enumerate(known)}
    except InputError:
        raise
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        EOFError,
        RecursionError,
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        tokenize.TokenError,
        np.linalg.LinAlgError,
    ) as error:
        raise InputError(f"{path}: cannot be read as statistics: {str(error) or type(error).__name__}", _HINT) from None


def _header(model: Model, layers: Sequence[LinearLayer]) -> dict[str, Any]:
    """Returns the header: version, layer names, and a hash of the layers' weights."""
    digest = hashlib.sha256()
    for layer in layers:
        assert layer.weight.tensor is not None
        weight = model.array(layer.weight.tensor)
        digest.update(repr((layer.name, layer.kind, layer.groups, weight.shape, str(weight.dtype))).encode())
        digest.update(np.ascontiguousarray(weight).tobytes())
    return {"version": VERSION, "weights": digest.hexdigest(), "layers": [layer.name for layer in layers]}


def _check_size(path: str | os.PathLike[str], layers: Sequence[LinearLayer]) -> None:
    """Raises `InputError` if the uncompressed archive is larger than statistics of these layers can be."""
    sizes = [g * (4 * c * (c + 1) // 2 + 16 * c) for g, c in ((layer.groups, layer.columns) for layer in layers)]
    names = sum(6 * len(layer.name) + 4096 for layer in layers)
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > sum(sizes) + names + _HEADER_BYTES:
            raise InputError(f"{path}: is larger than statistics of this model can be", _HINT)


def _moments(data: Mapping[str, NDArray[Any]], i: int, shape: tuple[int, int]) -> Moments:
    """Returns the moments of one layer; raises `ValueError` if its arrays are invalid."""
    groups, columns = shape
    count, total, zeros, upper = (data[f"{i}.{part}"] for part in ("count", "total", "zeros", "covariance"))
    wanted = [((), "i"), (shape, "f"), (shape, "i"), ((groups, columns * (columns + 1) // 2), "f")]
    for array, (size, kind) in zip((count, total, zeros, upper), wanted, strict=True):
        if array.shape != size or array.dtype.kind != kind or not np.isfinite(array).all():
            raise ValueError(f"an array of layer {i} is not what it should be")
    covariance = np.zeros((groups, columns, columns))
    row, column = np.triu_indices(columns)
    covariance[:, row, column] = upper
    covariance[:, column, row] = upper
    moments = Moments.from_covariance(int(count), total.astype(np.float64), covariance, zeros.astype(np.int64))
    for matrix in map(moments.covariance, range(groups)):  # recomputed: a huge mean would cancel the covariance
        slack = SLACK * max(float(np.diag(matrix).mean()), 1e-12) * np.eye(columns)
        np.linalg.cholesky(matrix + slack)  # raises LinAlgError if not positive definite
    return moments
