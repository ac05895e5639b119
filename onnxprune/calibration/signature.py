"""The signature of a model: names, shapes, types and batch axes of its inputs.

All calibration data pass `Signature.read` or `ModelInput.cast`, so that data which do not fit are reported with the
name of their source, and not by onnxruntime in the middle of a run.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxprune.calibration.model_input import Feed, ModelInput, Shape
from onnxprune.errors import DataError, InputError
from onnxprune.model.inputs import fed_inputs

LABELS = ("labels", "label", "y")
"""Names of arrays that are taken as labels, the first that is there, unless an input has this name."""

_BATCH = re.compile(r"batch|^(n|b|bs)$", re.I)
# A free first axis with such a name is not a batch axis.
_LENGTH = re.compile(r"seq|len|time|frame|token|past|step|position|layer|head|height|width|^(h|w|t|s|l)$", re.I)


@dataclass(frozen=True)
class Signature:
    """The inputs of a model that a caller feeds.

    Attributes:
        inputs: The inputs, in the graph's order.
        axes: The batch axis of each input, if all have one of the same length; else None, and feeds are not divided.
        certain: Whether `axes` follows from the declaration (one input, one name or one fixed length for all).
        labels: Name of the array of labels that the caller gave; None for one of `LABELS`.
    """

    inputs: tuple[ModelInput, ...]
    axes: dict[str, int] | None
    certain: bool
    labels: str | None = None

    @property
    def fixed(self) -> int | None:
        """The model's fixed batch size, None if it is free."""
        return self.inputs[0].fixed if self.axes else None

    @property
    def names(self) -> list[str]:
        """Names of the inputs."""
        return [model_input.name for model_input in self.inputs]

    def pick(self, given: Mapping[Any, Any], where: str) -> dict[str, Any]:
        """Returns the entries of the inputs by name, in their order.

        Raises:
            InputError: An input is missing.
        """
        for name in self.names:
            if name not in given:
                hint = _suggest(name, [str(g) for g in given], self.names)
                raise InputError(f"{where}: nothing for input '{name}'", hint)
        return {name: given[name] for name in self.names}

    def extra(self, given: Iterable[Any]) -> tuple[str, ...]:
        """Returns the names that are neither inputs nor labels."""
        names = [str(g) for g in given]
        return tuple(name for name in names if name not in self.names and name != self.label_name(names))

    def label_name(self, given: Iterable[Any], where: str = "calibration data") -> str | None:
        """Returns the name of the array of labels among some; None if there is none.

        Raises:
            InputError: The caller named one that is missing or an input.
        """
        names = [str(g) for g in given]
        if self.labels is None:
            return next((name for name in LABELS if name in names and name not in self.names), None)
        if self.labels in self.names:
            raise InputError(f"{where}: labels={self.labels} is an input of the model", "name another array")
        if self.labels not in names:
            raise InputError(f"{where}: no array '{self.labels}' of labels", _suggest(self.labels, names, self.names))
        return self.labels

    def rows(self, shapes: Mapping[str, Shape], where: str) -> int | None:
        """Returns the number of samples in a feed of these shapes; None if feeds cannot be divided.

        An array that lacks only its batch axis is one sample.

        Raises:
            InputError: The shapes do not fit the inputs, or inputs have different numbers of samples.
        """
        cut = self.axes if self.certain else None
        lengths: dict[str, int] = {}
        for model_input in self.inputs:
            shape = self.batched(model_input, shapes[model_input.name])
            model_input.check_shape(shape, where, any_batch=cut is not None)
            if cut is not None and not shape:  # of undeclared rank
                raise model_input.mismatch(shape, where)
            if cut is not None:
                lengths[model_input.name] = shape[cut[model_input.name]]
        if len(set(lengths.values())) > 1:
            raise InputError(f"{where}: {_describe_counts(lengths)}", "every input needs as many samples as the others")
        return next(iter(lengths.values()), None)

    def batched(self, model_input: ModelInput, shape: Shape) -> Shape:
        """Returns the shape, with a batch axis of length 1 inserted if only that is missing."""
        if self.axes and model_input.dims is not None and len(shape) == len(model_input.dims) - 1:
            axis = self.axes[model_input.name]
            return (*shape[:axis], 1, *shape[axis:])
        return shape

    def read(self, given: Any, where: str) -> tuple[Feed, int | None]:
        """Checks and casts a feed.

        Args:
            given: Arrays by input name, or one array for a model with one input.
            where: Name of the source in messages.

        Returns:
            The feed, and the number of samples in it (see `rows`).

        Raises:
            InputError: It does not fit the inputs.
        """
        feed: Feed = {}
        for name, value in self.pick(self.named(given, where), where).items():
            try:
                feed[name] = np.asarray(value)
            except Exception as error:
                raise DataError(f"{where}: '{name}' cannot be made an array: {error}") from error
        count = self.rows({name: a.shape for name, a in feed.items()}, where)
        for model_input in self.inputs:
            array = feed[model_input.name]
            feed[model_input.name] = model_input.cast(array.reshape(self.batched(model_input, array.shape)), where)
        return feed, count

    def named(self, given: Any, where: str) -> Mapping[Any, Any]:
        """Returns arrays by name; a single array belongs to the only input.

        Raises:
            InputError: It is neither a mapping nor an array, or an array for several inputs.
        """
        if isinstance(given, Mapping):
            return given
        if hasattr(given, "__array__") and len(self.inputs) == 1:
            return {self.names[0]: given}
        raise InputError(
            f"{where}: is {type(given).__name__}, not a dict of arrays", f"give a dict with {', '.join(self.names)}"
        )


def signature_of(proto: onnx.ModelProto) -> Signature:
    """Returns the inputs of a model with their batch axes.

    The batch axis is the one that is named like a batch, else axis 0 unless its name has another meaning. If its length
    is fixed, every run takes that number of samples.

    Raises:
        InputError: The model has no inputs, or one that is not a tensor.
    """
    values = fed_inputs(proto.graph)
    if not values:
        raise DataError("the model has no inputs, so there is nothing to feed")
    declared = {v.name: _dims(v) for v in values}
    for v in values:
        if v.type.tensor_type.elem_type not in helper.get_all_tensor_dtypes():
            raise DataError(f"input {v.name!r} is of no type that is known")
    symbols = [d for dims in declared.values() for d in dims or () if isinstance(d, str) and _BATCH.search(d)]
    symbol = symbols[0] if symbols else None
    inputs = tuple(
        ModelInput(
            v.name,
            np.dtype(helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type)),
            declared[v.name],
            _batch_axis(declared[v.name], symbol),
        )
        for v in values
    )
    sizes = {p.dims[p.axis] if p.dims and p.axis is not None else "" for p in inputs}
    agree = len({p.fixed for p in inputs}) == 1 and all(p.axis is not None for p in inputs)
    axes = {p.name: p.axis for p in inputs if p.axis is not None} if agree else None
    certain = axes is not None and (len(inputs) == 1 or (len(sizes) == 1 and sizes != {""}))
    return Signature(inputs, axes, certain)


def _dims(value: onnx.ValueInfoProto) -> tuple[int | str, ...] | None:
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.elem_type:
        what = (value.type.WhichOneof("value") or "value of no declared type").removesuffix("_type")
        raise DataError(f"input '{value.name}' is a {what}, which calibration data cannot feed")
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(d.dim_value if d.dim_value > 0 else d.dim_param for d in tensor.shape.dim)


def _batch_axis(dims: tuple[int | str, ...] | None, symbol: str | None) -> int | None:
    if dims is None:
        return 0
    if symbol in dims:
        return dims.index(symbol)
    if not dims or (isinstance(dims[0], str) and _LENGTH.search(dims[0]) and not _BATCH.search(dims[0])):
        return None
    # If an axis of any input is named like a batch, an axis with a fixed length or another name is not a batch axis.
    named = dims[0] != "" and not (isinstance(dims[0], str) and _BATCH.search(dims[0]))
    return None if symbol is not None and named else 0


def _describe_counts(lengths: Mapping[str, int]) -> str:
    return ", ".join(f"'{name}' has {n} samples" for name, n in lengths.items())


def _suggest(name: str, given: list[str], names: list[str]) -> str:
    folded = {g.casefold(): g for g in given}
    near = difflib.get_close_matches(name.casefold(), list(folded), n=1)
    listed = f"given: {', '.join(given) or 'nothing'}; inputs: {', '.join(names)}"
    return f"is it '{folded[near[0]]}'? {listed}" if near else listed
