"""Calibration specs: how calibration data are named on the command line.

A spec is one of

- ``FILE.npz`` or ``FILE.npy``;
- ``FILE.txt``, which the tokenizer.json beside the model makes ids;
- ``FOLDER`` with .npy, .npz or image files in it;
- ``FOLDER,KEY=VALUE,...`` for images: ``mean`` and ``std`` are one number, or one per channel separated by ``:``;
  ``scale`` is a number; ``layout`` is nchw or nhwc; ``resize`` and ``crop`` are N or HEIGHTxWIDTH; ``color`` is rgb or
  bgr;
- ``MODULE:FUNCTION``, which may be in the current folder.

Any of them may be followed by ``,labels=NAME``, the array of labels among those of the inputs (by default ``labels``,
``label`` or ``y``), and by ``,classes=FILE``, the classes in the order of their indices: for labels that are names, and
for images in a folder for each class.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxprune.calibration.images import ImageOptions, Size
from onnxprune.errors import DataError, InputError
from onnxprune.extensions.registry import one_of

IMAGE_KEYS = ("mean", "std", "scale", "layout", "resize", "crop", "color")
"""Options of a folder of images."""
LABEL_KEYS = ("labels", "classes")
"""Options of labels."""
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Spec:
    """A parsed calibration spec.

    Attributes:
        path: The file or folder, None for a function.
        function: ``module:name``, None for a path.
        options: Options of images by key, unparsed.
        labels: Name of the array of labels; None for the usual names.
        classes: File with the names of classes.
    """

    path: Path | None
    function: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    labels: str | None = None
    classes: str | None = None


def parse(text: str) -> Spec:
    """Parses a calibration spec.

    Raises:
        InputError: The file or folder does not exist, or an option is unknown, repeated or has no value.
    """
    if os.path.exists(text):  # the name of a folder may contain commas
        return Spec(Path(text))
    head, *rest = text.split(",")
    found = os.path.exists(head)
    if not found and not _FUNCTION.fullmatch(head):
        raise InputError(f"{head or text}: no such file or folder", _alternatives(Path(head)))
    options: dict[str, str] = {}
    for part in rest:
        key, _, value = part.strip().partition("=")
        one_of("calibration option", key, (*IMAGE_KEYS, *LABEL_KEYS))
        if key in options:
            raise DataError(f"{text}: {key} is given twice")
        if not value:
            raise InputError(f"{text}: {key} has no value", f"{key}=...")
        options[key] = value
    labels, classes = (options.pop(key, None) for key in LABEL_KEYS)
    return Spec(Path(head) if found else None, None if found else head, options, labels, classes)


def image_options(given: dict[str, str]) -> ImageOptions:
    """Parses the options of a folder of images.

    Raises:
        InputError: A value is not valid for its key.
    """
    made: dict[str, Any] = {}
    for key, value in given.items():
        if key in ("mean", "std"):
            made[key] = tuple(_number(key, part) for part in value.split(":"))
        elif key == "scale":
            made[key] = _number(key, value)
        elif key == "resize":
            made[key] = int(value) if value.isdigit() and int(value) else _size(key, value)
        elif key == "crop":
            made[key] = _size(key, value)
        else:
            made[key] = one_of(key, value.lower(), ("nchw", "nhwc") if key == "layout" else ("rgb", "bgr"))
    for key in ("std", "scale"):
        values = made.get(key, 1.0)
        if 0 in (values if isinstance(values, tuple) else (values,)):
            raise DataError(f"{key} must not be 0")
    return ImageOptions(**made)


def _number(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{key}: {text!r} is not a number", f"{key}=0.5, or one for each channel: {key}=0.5:0.4:0.3")
    return value


def _size(key: str, text: str) -> Size:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdigit() and int(side) for side in sides):
        raise InputError(f"{key}: {text!r} is not a size", f"{key}=224, or height and width: {key}=224x320")
    return int(sides[0]), int(sides[-1])


def _alternatives(path: Path) -> str:
    near: list[str] = []
    with contextlib.suppress(OSError):
        near = difflib.get_close_matches(path.name, sorted(p.name for p in path.parent.iterdir()), n=1)
    known = "an .npz, .npy or .txt file, a folder of .npy, .npz or images, or module:function"
    return f"did you mean {path.parent / near[0]}?" if near else f"give {known}"
