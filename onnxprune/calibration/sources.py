"""From what people have to `Samples`: tells the kinds of sources apart."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune.calibration.arrays import Arrays, Held, Table, npy_table, npz_tables
from onnxprune.calibration.folders import Entry, File, Items
from onnxprune.calibration.images import SUFFIXES, Images
from onnxprune.calibration.samples import Progress, Samples, Source, choose
from onnxprune.calibration.signature import Interface, interface_of
from onnxprune.calibration.spec import Word, image_options, parse
from onnxprune.calibration.streams import Stream, imported
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
) -> Samples:
    """Opens unlabelled data to calibrate a model with.

    A word (see `words`) names an .npz file with arrays by input name, an .npy file, a folder of either, a folder of
    images with options, or ``module:function``. A Path is a path and nothing else. Objects may be a dict of arrays, an
    array for a model of one input, any iterable of dicts, a callable that returns one, or anything with `get_next()`,
    such as onnxruntime's CalibrationDataReader. Where samples lie in an array is told in `arrays.Arrays`; dicts from
    iterables and functions are feeds, which are cut and joined where the model's inputs share a batch axis, and else
    fed as they are, each counting as one sample.

    Args:
        source: The data.
        model_proto: The model; only its inputs are looked at.
        limit: Samples to use at most: drawn by the seed where any can be had (arrays, files, lists), else the first.
        seed: Seed of what is drawn, here and in `Samples.split`.
        batch: Samples in a batch, where the model takes any number.
        memory: Bytes of a one-shot source to keep in memory for later passes; the rest goes to temporary files.
        progress: Called after every batch, with the samples so far and in all (None while unknown).

    Raises:
        InputError: There is no such data, it cannot be read, has no samples, or does not fit the model.
    """
    for name, value in (("batch", batch), *([] if limit is None else [("limit", limit)])):
        if value < 1:
            raise DataError(f"{name} must be at least 1, not {value}")
    interface = interface_of(model_proto)
    opened = _opened(source, interface, memory)
    chosen = choose(opened, interface, limit=limit, seed=seed)
    fixed = interface.fixed if opened.axes else None
    return Samples(opened, fixed, chosen, batch=batch, seed=seed, progress=progress)


def _opened(source: Any, interface: Interface, memory: int) -> Source:
    if isinstance(source, (str, os.PathLike)):
        word = parse(source) if isinstance(source, str) else _as_word(source)
        return _from_word(word, interface, memory)
    if isinstance(source, Mapping):
        return Arrays({str(k): _held(k, v) for k, v in source.items()}, interface, _OBJECT)
    if isinstance(source, np.ndarray):
        return Arrays({n: Held(a) for n, a in interface.named(source, _OBJECT).items()}, interface, _OBJECT)
    if isinstance(source, Sequence):
        entries = [Entry(e, interface, f"{_OBJECT}: item {place}") for place, e in enumerate(source)]
        return Items(entries, interface, _OBJECT)
    return Stream(source, interface, _OBJECT, memory)


def _as_word(path: os.PathLike[str]) -> Word:
    if not Path(path).exists():
        raise DataError(f"{os.fspath(path)}: no such file or folder")
    return Word(Path(path))


def _held(name: Any, value: Any) -> Table:
    try:
        return Held(np.asarray(value))
    except Exception as error:
        raise DataError(f"{_OBJECT}: '{name}' cannot be made an array: {error}") from error


def _from_word(word: Word, interface: Interface, memory: int) -> Source:
    if word.path is not None and word.path.is_dir():
        return _folder(word.path, word, interface)
    where = word.function or str(word.path)
    if word.options:
        raise DataError(f"{where}: {', '.join(word.options)} only mean something for a folder of images")
    if word.path is None:
        found = imported(where)
        return Stream(found, interface, where, memory)
    suffix = word.path.suffix.lower()
    if suffix == ".npz":
        return Arrays(npz_tables(word.path, where), interface, where)
    if suffix == ".npy":
        table = npy_table(word.path, where)
        return Arrays(dict.fromkeys(interface.named(table.array, where), table), interface, where)
    raise InputError(f"{where}: is neither .npz nor .npy", "for images, give their folder")


def _folder(path: Path, word: Word, interface: Interface) -> Source:
    where = str(path)
    files = sorted(f for f in path.rglob("*") if f.is_file() and not f.name.startswith("."))
    arrays = [f for f in files if f.suffix.lower() in _ARRAYS]
    images = [f for f in files if f.suffix.lower() in SUFFIXES]
    if images and (word.options or not arrays):
        return Images(images, image_options(word.options), interface, where)
    if images:
        raise InputError(f"{where}: holds both images and arrays", "give a folder with one of them")
    if not arrays:
        found = "no files" if not files else "no .npy, .npz or image files"
        raise InputError(f"{where}: {found} in this folder", f"images end in {', '.join(SUFFIXES)}")
    if word.options:
        raise DataError(f"{where}: {', '.join(word.options)} only mean something for images, and there are none")
    return Items([File(f, interface) for f in arrays], interface, where)
