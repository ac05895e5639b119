"""Which ids of a vocabulary stay: from a list, from counts, or from texts as ids; and those that no text shows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration.arrays import UNREADABLE
from onnxprune.errors import InputError

Ids = NDArray[np.int64]
COUNTS = "counts"
"""Name of the array of an .npz file that has a count for each id."""
CONFIGURATIONS = ("config.json", "generation_config.json", "genai_config.json")
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "decoder_start_token_id", "sep_token_id")


def listed(path: str | os.PathLike[str]) -> list[int]:
    """Ids of a text file, one a line; what follows a ``#`` is a comment.

    Raises:
        InputError: It cannot be read, or a line is no id.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {getattr(error, 'strerror', None) or error}") from None
    found = []
    for number, line in enumerate(lines, start=1):
        word = line.partition("#")[0].strip()
        if word and not word.isdecimal():
            raise InputError(f"{path}: line {number} is no id: {word[:40]!r}", "one id a line, say 1047")
        found += [int(word)] if word else []
    return found


def counted(path: str | os.PathLike[str], size: int) -> NDArray[np.float64]:
    """How often each id is used, in numbers or shares; shape (size,).

    Args:
        path: An .npy or .npz file: an array ``counts`` with a number for each id, or texts as integer arrays of ids.
        size: Number of ids.

    Raises:
        InputError: It cannot be read, or holds neither, or other ids.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = (
            {name: loaded[name] for name in loaded.files}
            if isinstance(loaded, np.lib.npyio.NpzFile)
            else {"": np.asarray(loaded)}
        )
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    if COUNTS in arrays:
        counts = arrays[COUNTS]
        if counts.shape != (size,) or counts.dtype.kind not in "iuf" or not (np.isfinite(counts) & (counts >= 0)).all():
            raise InputError(f"{path}: 'counts' must be {size:,} numbers, one for each id, not of shape {counts.shape}")
        return counts.astype(np.float64)
    total = np.zeros(size)
    texts = [array for array in arrays.values() if array.dtype.kind in "iu"]
    if not texts:
        raise InputError(f"{path}: holds no integer array", "give counts, or texts as ids")
    for array in texts:
        if array.size and not 0 <= array.min() <= array.max() < size:
            raise InputError(f"{path}: holds ids that are none of the {size:,} of the vocabulary")
        total += np.bincount(array.ravel().astype(np.int64), minlength=size)
    return total


def most_frequent(counts: NDArray[np.float64], tokens: int | None, always: Ids) -> Ids:
    """The ids that are used, or the most frequent of them, with some that stay in any case; of equals the lowest."""
    order = np.argsort(-counts, kind="stable")
    order = order[(counts[order] > 0) & ~np.isin(order, always)]
    return np.union1d(always, order if tokens is None else order[: max(tokens - len(always), 0)])


def special_ids(folder: Path | None, size: int) -> tuple[Ids, int | None]:
    """Ids that the files beside a model name (begin and end of a text, padding), and that of unknown words.

    Args:
        folder: Where a tokenizer.json or the configurations of a model are; None for nowhere.
        size: Number of ids.
    """
    found, unknown = set[int](), None
    if folder is None:
        return np.empty(0, dtype=np.int64), None
    for name in CONFIGURATIONS:
        found.update(_configured(_json(folder / name)))
    tokenizer = _json(folder / "tokenizer.json")
    added = [token for token in tokenizer.get("added_tokens") or [] if isinstance(token, dict) and token.get("special")]
    found.update(token["id"] for token in added if isinstance(token.get("id"), int))
    model = tokenizer.get("model")
    if isinstance(model, dict) and isinstance(model.get("vocab"), dict) and model.get("unk_token") is not None:
        unknown = model["vocab"].get(model["unk_token"])
    found.update([unknown] if isinstance(unknown, int) else [])
    return np.array(sorted(i for i in found if 0 <= i < size), dtype=np.int64), unknown


def _configured(data: Any) -> Iterator[int]:
    """Ids of special words anywhere in a configuration."""
    if not isinstance(data, dict):
        return
    for key, value in data.items():
        if key in SPECIAL:
            yield from (i for i in (value if isinstance(value, list) else [value]) if isinstance(i, int))
        elif isinstance(value, dict):
            yield from _configured(value)


def _json(path: Path) -> dict[str, Any]:
    """A JSON object of a file; nothing where there is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
