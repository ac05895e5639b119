"""Options as JSON data and back: for reports, and for recipes."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from onnxprune.errors import InputError
from onnxprune.extensions import points
from onnxprune.extensions.patterns import CHANNELS
from onnxprune.extensions.registry import one_of
from onnxprune.options import checks
from onnxprune.options.channels import Channels
from onnxprune.options.parts import Zeros

if TYPE_CHECKING:
    from onnxprune.options.options import Options

PYTHON = "python"
"""Key of what stands for an object that JSON cannot hold: ``{"python": NAME}``, which no option takes."""
ZEROS = "zeros"
"""Key of what `Options.of` cannot express: criterion and ranking of zeros, where those of channels are others."""


def to_dict(options: Options) -> dict[str, Any]:
    """The options as strict JSON data: the parameters of `Options.of` that make them."""
    amounts = vars(options.channels or Channels(ratio=0.0)).copy()
    if options.channels is None:
        amounts["ratio"] = None
    else:
        amounts["target"] = options.channels.limits
    merged = _merged(options.channels, options.zeros)
    apart = {} if options.zeros is None or merged is not None else {ZEROS: _criterion_and_ranking(options.zeros)}
    importance, across = merged if merged is not None else (amounts["importance"], amounts["global_ranking"])
    found = {
        **amounts,
        "importance": importance if importance is None else _name_of_criterion(importance),
        "global_ranking": across,
        "pattern": _patterns(options),
        "permute": options.zeros is not None and options.zeros.permute,
        **vars(options.scope),
        "calib": options.calibration.data,
        "samples": options.calibration.samples,
        "stats": options.calibration.stats,
        "repair": options.repair.method,
        "epochs": options.repair.epochs,
        "minutes": options.repair.minutes,
        **vars(options.checks),
        **vars(options.resources),
        "seed": options.seed,
        "sparse_storage": options.sparse_storage,
        **apart,
    }
    return {name: _storable(value) for name, value in found.items()}


def from_dict(kind: type[Options], given: Mapping[str, Any]) -> Options:
    """The inverse of `to_dict`.

    Raises:
        InputError: A key is unknown (the hint has the closest match), or a value is refused by `Options.of`.
    """
    known = list(inspect.signature(kind.of).parameters)
    for name in given:
        one_of("option", name, [*known, *([ZEROS] if name == ZEROS else [])])
    options = kind.of(**{name: value for name, value in given.items() if name != ZEROS})
    apart = given.get(ZEROS)
    if apart is None:
        return options
    apart = checks.mapping(ZEROS, apart, "{'solver': 'wanda', 'global_ranking': True}")
    if options.zeros is None:
        raise InputError(f"{ZEROS!r} belongs to a pattern of zeros, and there is none", "give pattern='2:4', say")
    for name in apart:
        one_of(f"key of {ZEROS!r}", name, list(_criterion_and_ranking(options.zeros)))
    return replace(options, zeros=replace(options.zeros, **apart))


def _merged(channels: Channels | None, zeros: Zeros | None) -> tuple[Any, bool | None] | None:
    """The importance and global ranking that `Options.of` takes for both parts; None if no single value serves both."""
    if zeros is None:
        return (channels.importance, channels.global_ranking) if channels is not None else (None, None)
    if channels is None:
        return zeros.solver, zeros.global_ranking
    for importance in dict.fromkeys((channels.importance, zeros.solver)):
        criterion = None if importance is None else points.as_criterion(importance)
        ranks = None if criterion is None or not criterion.channels else importance
        chooses = None if criterion is None or not criterion.zeros else criterion.name
        if (ranks, chooses, bool(zeros.global_ranking)) == (channels.importance, zeros.solver, channels.global_ranking):
            return importance, zeros.global_ranking
    return None


def _criterion_and_ranking(zeros: Zeros) -> dict[str, Any]:
    return {"solver": zeros.solver, "global_ranking": zeros.global_ranking}


def _patterns(options: Options) -> list[str]:
    found = [] if options.channels is None else [CHANNELS]
    if options.zeros is not None:
        shape = options.zeros.shape
        found.append(f"{shape}={shape.share!r}" if shape.takes_share else str(shape))
    return found


def _name_of_criterion(importance: Any) -> Any:
    """The name that a criterion is registered under; a function that is not registered remains."""
    criterion = points.as_criterion(importance)
    known = criterion.name in points.criteria and points.criteria.get(criterion.name) == criterion
    return criterion.name if known else importance


def _storable(value: Any) -> Any:
    """JSON data of a value; ``{"python": NAME}`` of an object that JSON cannot hold."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple)) and all(isinstance(v, (int, str)) for v in value):
        return list(value)
    if isinstance(value, Mapping) and all(_holds(v) for v in value.values()):
        return {str(name): _storable(v) for name, v in value.items()}
    return {PYTHON: str(getattr(value, "__name__", type(value).__name__))}


def _holds(value: Any) -> bool:
    """Whether JSON can hold an entry of a mapping."""
    return value is None or isinstance(value, (int, float, str, tuple))
