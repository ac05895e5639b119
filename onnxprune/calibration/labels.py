"""Labels beside calibration samples: their array, their classes by name, and folders of images that are classes."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import DataError

Array = NDArray[Any]


def per_sample(labels: Any, count: int, name: str, where: str) -> Array:
    """The labels of the samples of one array or feed: one entry along axis 0 for each sample.

    Args:
        labels: The labels; those of a single sample may lack the axis of samples.
        count: Number of samples.
        name: Name of the array, for messages.
        where: Name of the source, for messages.

    Raises:
        DataError: They are not as many as the samples.
    """
    array = np.asarray(labels)
    if count == 1 and (not array.ndim or len(array) != 1):
        return array[None]
    if not array.ndim or len(array) != count:
        raise DataError(f"{where}: '{name}' has shape {array.shape}, but there are {count} samples")
    return array


def joined(parts: Sequence[Array], where: str) -> Array:
    """The labels of all samples, from those of each feed.

    Raises:
        DataError: Samples have labels of different shapes.
    """
    shapes = sorted({part.shape[1:] for part in parts})
    if len(shapes) > 1:
        raise DataError(f"{where}: labels differ in shape: {shapes[0]} and {shapes[1]}", "give each sample the same")
    return np.concatenate(parts)


class StreamLabels:
    """Collects the labels of a stream, which may be read several times, in parts.

    Args:
        where: Name of the source, for messages.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._parts: list[Array] = []
        self._count = 0
        self._labelled: bool | None = None

    def add(self, start: int, count: int, name: str | None, labels: Any, where: str) -> None:
        """Adds the labels of a feed, unless they are known from an earlier pass.

        Args:
            start: Position of its first sample.
            count: Number of samples in it.
            name: Name of the array of labels; None if it has none.
            labels: The labels.
            where: Name of the feed, for messages.

        Raises:
            DataError: It has labels and others have none, or the other way round; or they are not one for each sample.
        """
        if start < self._count:
            return
        if self._labelled is not None and self._labelled != (name is not None):
            with_them, without = ("later", "earlier") if name is not None else ("earlier", "later")
            raise DataError(f"{where}: {with_them} samples have labels, {without} ones have none", "label all or none")
        self._labelled = name is not None
        self._count = start + count
        if name is not None:
            self._parts.append(per_sample(labels, count, name, where).copy())

    def found(self) -> Array | None:
        """The labels so far, one entry for each sample; None if there are none."""
        return joined(self._parts, self._where) if self._parts else None


SEVERAL = -1
"""Index of a name that several classes have."""


def read_classes(path: str) -> dict[str, int]:
    """Index of each class by name.

    Args:
        path: A text file with a name a line, in the order of the indices from 0, or a JSON file: a list of names, an
            object from name to index, or one from index to name (or to a list of names of the class).

    Returns:
        The index, `SEVERAL` for a name of several classes.

    Raises:
        DataError: The file cannot be read, or is none of these.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        found = json.loads(text) if path.lower().endswith(".json") else text.splitlines()
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"classes={path}: cannot be read: {what}", "a text file with a class a line") from None
    names = _by_name(found)
    if not names:
        raise DataError(f"classes={path}: is no list of classes", "names in order, or an object from name to index")
    return names


def _by_name(found: Any) -> dict[str, int] | None:
    """Index by name from any accepted form; None for another form."""
    if isinstance(found, list):
        named = [line.strip() if isinstance(line, str) else None for line in found]
        while named and not named[-1]:
            named.pop()
        pairs = [(name, index) for index, name in enumerate(named)]
    elif isinstance(found, dict) and all(isinstance(v, int) for v in found.values()):
        pairs = list(found.items())
    elif isinstance(found, dict) and all(key.isdecimal() for key in found):
        several = [(v if isinstance(v, list) else [v], int(key)) for key, v in found.items()]
        pairs = [(name, index) for names, index in several for name in names]
    else:
        return None
    if not all(isinstance(name, str) and name for name, _ in pairs):
        return None
    indices: dict[str, int] = {}
    for name, index in ((str(name), index) for name, index in pairs):
        indices[name] = index if indices.get(name, index) == index else SEVERAL
    return indices


def encoded(names: Sequence[str], classes: Mapping[str, int], where: str) -> NDArray[np.int64]:
    """Indices of classes by name.

    Raises:
        DataError: A name is none of the classes, or of several.
    """
    for name in names:
        if classes.get(name) == SEVERAL:
            raise DataError(f"{where}: several classes are called {name!r}", "give the labels as indices")
        if name not in classes:
            near = difflib.get_close_matches(name, list(classes), n=1)
            raise DataError(
                f"{where}: class {name!r} is not among the {len(classes)} that classes= names",
                f"did you mean {near[0]!r}?" if near else "add it to the file",
            )
    return np.array([classes[name] for name in names], dtype=np.int64)


def class_folders(
    root: Path, images: Sequence[Path], classes: Mapping[str, int] | None
) -> tuple[NDArray[np.int64], int] | None:
    """The classes of images by the folder below `root` that each is in, and how many classes there are.

    Args:
        root: The folder of calibration images.
        images: The images below it.
        classes: Index of each class by the name of its folder; None for the order of the sorted names.

    Returns:
        None where the images are in no folders of classes: in `root` itself, or all in one folder.

    Raises:
        DataError: `classes` is given and the folders are not among them.
    """
    inner = [path.relative_to(root).parts for path in images]
    folders = [parts[0] if len(parts) > 1 else "" for parts in inner]
    if classes is not None:
        if "" in folders:
            raise DataError(f"{root}: {inner[folders.index('')][0]} is in no folder of a class", "classes= needs one")
        return encoded(folders, classes, str(root)), len(classes)
    names = sorted(set(folders))
    if "" in names or len(names) < 2:
        return None
    return encoded(folders, {name: index for index, name in enumerate(names)}, str(root)), len(names)
