"""Opens calibration data of any kind as `Samples`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune.calibration.arrays import Arrays, ArrayTable, Table, npy_table, npz_tables
from onnxprune.calibration.folders import Entry, File, Items
from onnxprune.calibration.images import SUFFIXES, Images
from onnxprune.calibration.labels import class_folders, encoded, read_classes
from onnxprune.calibration.samples import Progress, Samples, Source, choose
from onnxprune.calibration.signature import Signature, signature_of
from onnxprune.calibration.spec import Spec, image_options, parse
from onnxprune.calibration.streams import Stream
from onnxprune.calibration.texts import SUFFIX, text_arrays
from onnxprune.common.importing import import_object
from onnxprune.errors import DataError, InputError

_ARRAYS = (".npy", ".npz")
_OBJECT = "calibration data"


def open_samples(
    source: Any,
    model_proto: onnx.ModelProto,
    *,
    limit: int | None = None,
    seed: int = 0,
    batch: int = 32,
    memory: int = 2**28,
    progress: Progress | None = None,
    folder: Path | None = None,
) -> Samples:
    """Opens data for the calibration of a model; labels are optional.

    A string (see `spec`) is an .npz file with arrays by input name, an .npy file, a folder of either, a text (see
    `texts`), a folder of images with options, or ``module:function``. A Path is a file or folder. An object may be a
    dict of arrays, an array for a model with one input, any iterable of dicts, a callable that returns one, or any
    object with `get_next()`, such as onnxruntime's CalibrationDataReader. For the axes of samples in an array see
    `arrays.Arrays`. Dicts from iterables and functions are feeds, which are cut and joined if the model's inputs share
    a batch axis; else each is one sample. An array beside the inputs that is named ``labels``, ``label`` or ``y`` holds
    the labels, one entry for each sample; images in a folder for each class have the index of that folder in the order
    of names.

    Args:
        source: The data.
        model_proto: The model; only its inputs are read.
        limit: Maximum number of samples: drawn at random from a source with random access (arrays, files, lists), else
            the first ones.
        seed: Seed of the random selection, here and in `Samples.split`.
        batch: Samples per batch, if the model's batch size is free.
        memory: Bytes of a file, a one-shot source or decoded images to keep in memory for later passes; the rest of a
            file is read again, that of the others is written to temporary files.
        progress: Called after every batch with the number of samples so far and in total (None if unknown).
        folder: Where the model's file is, for the tokenizer beside it.

    Raises:
        InputError: The data do not exist, cannot be read, have no samples, or do not fit the model.
    """
    for name, value in (("batch", batch), *([] if limit is None else [("limit", limit)])):
        if value < 1:
            raise DataError(f"{name} must be at least 1, not {value}")
    signature = signature_of(model_proto)
    opened = _open(source, signature, memory, folder)
    selection = choose(opened, signature, limit=limit, seed=seed)
    fixed = signature.fixed if opened.axes else None
    return Samples(opened, fixed, selection, batch=batch, seed=seed, progress=progress)


def _open(source: Any, signature: Signature, memory: int, folder: Path | None) -> Source:
    if isinstance(source, (str, os.PathLike)):
        spec = parse(source) if isinstance(source, str) else _path_spec(source)
        return _from_spec(spec, signature, memory, folder)
    if isinstance(source, Mapping):
        return Arrays({str(k): _table(k, v) for k, v in source.items()}, signature, _OBJECT)
    if isinstance(source, np.ndarray):
        return Arrays({n: ArrayTable(a) for n, a in signature.named(source, _OBJECT).items()}, signature, _OBJECT)
    if isinstance(source, Sequence):
        entries = [Entry(e, signature, f"{_OBJECT}: item {position}") for position, e in enumerate(source)]
        return Items(entries, signature, _OBJECT)
    return Stream(source, signature, _OBJECT, memory)


def _path_spec(path: os.PathLike[str]) -> Spec:
    if not Path(path).exists():
        raise DataError(f"{os.fspath(path)}: no such file or folder")
    return Spec(Path(path))


def _table(name: Any, value: Any) -> Table:
    try:
        return ArrayTable(np.asarray(value))
    except Exception as error:
        raise DataError(f"{_OBJECT}: '{name}' cannot be made an array: {error}") from error


def _from_spec(spec: Spec, signature: Signature, memory: int, folder: Path | None) -> Source:
    signature = replace(signature, labels=spec.labels)
    classes = None if spec.classes is None else read_classes(spec.classes)
    if spec.path is not None and spec.path.is_dir():
        opened = _folder(spec.path, spec, signature, classes, memory)
    else:
        opened = _file_or_function(spec, signature, memory, folder)
    if classes is not None and opened.classes is None:
        _encode_labels(opened, classes)
    return opened


def _encode_labels(source: Source, classes: Mapping[str, int]) -> None:
    """Replaces the labels of a source, names of classes, by their indices.

    Raises:
        InputError: It has no labels, or they are not names.
    """
    if isinstance(source, Stream):
        raise DataError(f"{source.where}: classes= is for files and folders", "let the function give indices as labels")
    labels = source.labels
    if labels is None:
        raise DataError(
            f"{source.where}: classes= names the classes of labels, and there are none",
            "add an array of them named labels",
        )
    if labels.dtype.kind not in "US":
        raise DataError(f"{source.where}: labels are {labels.dtype}, not names of classes", "leave classes= away")
    names = [str(name) for name in labels.astype(str).ravel()]
    source.labels = encoded(names, classes, source.where).reshape(labels.shape)


def _file_or_function(spec: Spec, signature: Signature, memory: int, folder: Path | None) -> Source:
    where = spec.function or str(spec.path)
    if spec.options:
        raise DataError(f"{where}: {', '.join(spec.options)} only mean something for a folder of images")
    if spec.path is None:
        found = import_object(where)
        return Stream(found, signature, where, memory)
    suffix = spec.path.suffix.lower()
    if suffix == ".npz":
        return Arrays(npz_tables(spec.path, where, memory), signature, where)
    if suffix == ".npy":
        table = npy_table(spec.path, where)
        return Arrays(dict.fromkeys(signature.named(table.array, where), table), signature, where)
    if suffix == SUFFIX:
        arrays = text_arrays(spec.path, signature, folder)
        return Arrays({name: ArrayTable(array) for name, array in arrays.items()}, signature, where)
    raise InputError(f"{where}: is neither .npz, .npy nor .txt", "for images, give their folder")


def _folder(path: Path, spec: Spec, signature: Signature, classes: Mapping[str, int] | None, memory: int) -> Source:
    where = str(path)
    files = sorted(f for f in path.rglob("*") if f.is_file() and not f.name.startswith("."))
    arrays = [f for f in files if f.suffix.lower() in _ARRAYS]
    images = [f for f in files if f.suffix.lower() in SUFFIXES]
    if images and (spec.options or not arrays):
        if spec.labels is not None:
            raise DataError(f"{where}: labels= names an array, and images have none", "put them in a folder a class")
        source = Images(images, image_options(spec.options), signature, where, memory)
        if (labelled := class_folders(path, images, classes)) is not None:
            source.labels, source.classes = labelled
        return source
    if images:
        raise InputError(f"{where}: holds both images and arrays", "give a folder with one of them")
    if not arrays:
        found = "no files" if not files else "no .npy, .npz or image files"
        raise InputError(f"{where}: {found} in this folder", f"images end in {', '.join(SUFFIXES)}")
    if spec.options:
        raise DataError(f"{where}: {', '.join(spec.options)} only mean something for images, and there are none")
    return Items([File(f, signature) for f in arrays], signature, where)
