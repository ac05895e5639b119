"""Metrics: how good the outputs of a model are, with labels or beside the outputs of the original.

The package's own are in `verification.metric_functions`. Others are added with `metric`, or by an entry point in the
group ``onnxprune.metrics``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from onnxprune.common.importing import import_object
from onnxprune.errors import InputError
from onnxprune.extensions.registry import Registry

MetricFunction = Callable[[Any, Any], Any]
"""From outputs by name (samples along axis 0, a list where samples differ in shape) and labels (axis 0: samples) to a
number, or to one for each sample, whose mean is the metric. Without labels, the second argument is the outputs of the
original, by name as well."""

Function = TypeVar("Function", bound=MetricFunction)


@dataclass(frozen=True)
class Metric:
    """A metric of a model.

    Attributes:
        name: Its name in options and reports.
        function: Computes it.
        higher_is_better: Whether a better model has a higher value.
        per_sample: Whether the function gives one value for each sample, so that it can be called batch by batch.
        needs_labels: Whether it has a meaning with labels only.
        bind: From the labels of all samples to the function that is called, if that depends on them.
        output: Name of the only output that the function is given; None for all.
    """

    name: str
    function: MetricFunction
    higher_is_better: bool = True
    per_sample: bool = False
    needs_labels: bool = False
    bind: Callable[[Any], MetricFunction] | None = None
    output: str | None = None


OWN = ("top1", "top5", "mse", "psnr", "auc")
"""The package's own metrics."""

metrics: Registry[Metric] = Registry(
    "metric",
    entry_points="onnxprune.metrics",
    home="onnxprune.verification.metric_functions",
    elsewhere={
        **dict.fromkeys(["accuracy", "acc", "top-1", "acc1"], "top1"),
        **dict.fromkeys(["top-5", "acc5"], "top5"),
        **dict.fromkeys(["roc-auc", "auroc"], "auc"),
        **dict.fromkeys(["l2", "squared-error"], "mse"),
    },
)


def metric(
    name: str, *, higher_is_better: bool = True, per_sample: bool = False, needs_labels: bool = False
) -> Callable[[Function], Function]:
    """Registers a function that computes a metric (`MetricFunction`), for ``metric=NAME`` and ``--metric NAME``.

    Args:
        name: The name.
        higher_is_better: Whether a better model has a higher value.
        per_sample: Whether it returns one value for each sample, shape (n,). It is then called batch by batch, so that
            outputs are not held, and the interval follows from the paired differences instead of a bootstrap.
        needs_labels: Whether it is refused where there are no labels.
    """

    def register(function: Function) -> Function:
        if not callable(function):
            raise InputError(f"metric {name!r} must be a function, not {function!r}"[:200])
        if name in OWN:
            raise InputError(f"metric {name!r} is the package's own", "choose another name")
        metrics.add(name, Metric(name, function, higher_is_better, per_sample, needs_labels))
        return function

    return register


def as_metric(asked: str | MetricFunction) -> Metric:
    """The metric of a name, of ``NAME:OUTPUT``, of ``module:function``, or of a function.

    A function that is not registered counts as one whose higher values are better, unless it has an attribute
    ``higher_is_better`` that is false.

    Raises:
        InputError: The name is unknown, the module or the function does not exist, or it is neither a name nor a
            function.
    """
    if isinstance(asked, str):
        name, colon, rest = asked.partition(":")
        if not colon:
            return metrics.get(name)
        if name in metrics:
            if not rest:
                raise InputError(f"metric {asked!r} names no output", f"{name}:OUTPUT, or {name} alone")
            return replace(metrics.get(name), name=asked, output=rest)
        function = import_object(asked)
        if not callable(function):
            raise InputError(f"metric {asked!r} is {type(function).__name__}, not a function")
        return replace(_of_function(function), name=asked)
    if callable(asked):
        return _of_function(asked)
    raise InputError(
        f"metric must be a name or a function, not {asked!r}"[:200], f"one of {', '.join(metrics.names())}"
    )


def _of_function(function: MetricFunction) -> Metric:
    """The metric that a function is registered as, else a new one."""
    for name in metrics.names():
        if metrics.get(name).function is function:
            return metrics.get(name)
    name = str(getattr(function, "__name__", type(function).__name__))
    return Metric(name, function, higher_is_better=bool(getattr(function, "higher_is_better", True)))
