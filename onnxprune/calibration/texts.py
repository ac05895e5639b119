"""Texts as calibration data of language models: a text file, made ids by the tokenizer beside the model."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration.empty_caches import CACHE, MASK, POSITIONS
from onnxprune.calibration.model_input import ModelInput
from onnxprune.calibration.signature import Signature
from onnxprune.errors import DataError, InputError

SUFFIX, TOKENIZER = ".txt", "tokenizer.json"
LENGTH = 128
"""Ids of a sample, where the model takes any number."""
_SEGMENTS = re.compile("type|segment", re.I)
_NO_TOKENIZER = f"{TOKENIZER} of the model goes beside it, or beside the text; or give texts as ids in an .npz file"


def text_arrays(path: Path, signature: Signature, folder: Path | None) -> dict[str, NDArray[np.generic]]:
    """Samples of a text file, by input name: ids, and masks of ones, positions from 0 and segments 0 beside them.

    Paragraphs (an empty line ends one) are encoded by themselves, with what the tokenizer puts around a text, and then
    follow each other; what does not fill the last sample is left out.

    Args:
        path: The file; UTF-8.
        signature: The inputs of the model.
        folder: Where the model is; its tokenizer.json is looked for there, then beside the text.

    Raises:
        InputError: The text or the tokenizer is missing or cannot be read, there is no input for ids, or tokenizers is
            not installed.
    """
    where, ids = str(path), _input_of_ids(signature, str(path))
    found = _encoded(path, next((f for f in (folder, path.parent) if f is not None and (f / TOKENIZER).exists()), None))
    size = (ids.dims or ())[-1:]
    length = size[0] if size and isinstance(size[0], int) else min(LENGTH, len(found))
    if not length or len(found) < length:
        raise DataError(f"{where}: {len(found)} ids, and a sample has {length or 'some'}", "give a longer text")
    texts = found[: len(found) // length * length].reshape(-1, length)
    made: dict[str, NDArray[np.generic]] = {ids.name: texts}
    for one in _flat(signature):
        if MASK.search(one.name):
            made[one.name] = np.ones_like(texts)
        elif POSITIONS.search(one.name):
            made[one.name] = np.tile(np.arange(length), (len(texts), 1))
        elif _SEGMENTS.search(one.name):
            made[one.name] = np.zeros_like(texts)
    return made


def _flat(signature: Signature) -> list[ModelInput]:
    """Inputs with a number for each place of each text."""
    return [one for one in signature.inputs if one.dims is not None and len(one.dims) == 2]


def _input_of_ids(signature: Signature, where: str) -> ModelInput:
    others = (MASK, POSITIONS, CACHE, _SEGMENTS)
    found = [
        one
        for one in _flat(signature)
        if one.dtype.kind == "i" and not any(pattern.search(one.name) for pattern in others)
    ]
    if len(found) != 1:
        said = f"{len(found)} inputs may hold the ids of a text" if found else "no input holds the ids of a text"
        raise InputError(f"{where}: {said}", "give an .npz file with an array for each input, by name")
    return found[0]


def _encoded(path: Path, folder: Path | None) -> NDArray[np.int64]:
    """The ids of a text, one after the other."""
    if folder is None:
        raise InputError(f"{path}: no {TOKENIZER} beside the model", _NO_TOKENIZER)
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise InputError(f"{path}: reading texts needs tokenizers", "pip install 'onnxprune[text]'") from None
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {getattr(error, 'strerror', None) or error}") from None
    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # it raises Exception itself
        raise InputError(f"{folder / TOKENIZER}: is no tokenizer: {error}"[:200]) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    paragraphs = [part for part in re.split(r"\n\s*\n", text) if part.strip()]
    encoded = tokenizer.encode_batch(paragraphs) if paragraphs else []
    return np.array([i for one in encoded for i in one.ids], dtype=np.int64)
