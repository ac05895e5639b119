"""The options of a run as data, for its report."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from onnxprune.options.parts import Channels
from onnxprune.patterns import CHANNELS

if TYPE_CHECKING:
    from onnxprune.options.options import Options


def as_data(options: Options) -> dict[str, Any]:
    """The options as strict JSON data, under their names on the command line."""
    amounts = {**vars(Channels(ratio=0.0)), "ratio": None} if options.channels is None else dict(vars(options.channels))
    amounts["target"] = {} if options.channels is None else options.channels.limits
    across = amounts.pop("global_ranking") or (options.zeros is not None and bool(options.zeros.global_ranking))
    pattern = [] if options.channels is None else [CHANNELS]
    if options.zeros is not None:
        shape = options.zeros.shape
        pattern.append(str(shape) if shape.share is None else f"{shape}={shape.share:g}")
    metric = options.checks.asked_metric
    calib, stats = options.calibration.data, options.calibration.stats
    return {
        "global": across or (options.spreads_zeros and options.channels is None),
        **amounts,
        "importance": options.criterion.name if options.channels is not None else options.solver,
        "pattern": pattern,
        "permute": options.zeros is not None and options.zeros.permute,
        **{name: list(v) if isinstance(v, tuple) else v for name, v in vars(options.scope).items()},
        "calib": calib if calib is None or isinstance(calib, str) else type(calib).__name__,
        "samples": options.calibration.samples,
        "stats": None if stats is None else os.fspath(stats),
        "repair": options.repair.method,
        **vars(options.checks),
        "metric": None if metric is None else metric.name,
        "input_shapes": {name: list(shape) for name, shape in options.checks.input_shapes.items()},
        **vars(options.resources),
        "seed": options.seed,
        "sparse_storage": options.sparse_storage,
    }
