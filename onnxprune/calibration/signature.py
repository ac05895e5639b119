"""What a model takes: names, ranks, lengths and types of its inputs, and along which axis samples lie.

Everything that is fed passes `Interface.read` or `Port.cast`, so that what does not fit is found where it comes in,
in the caller's words, rather than by onnxruntime in the middle of a run.
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

from onnxprune.calibration.model_input import Feed, Port, Shape
from onnxprune.errors import DataError, InputError
from onnxprune.model.inputs import fed_inputs

LABELS = "labels"
"""Key of an array that is kept aside, unless an input has this name."""

_BATCH = re.compile(r"batch|^(n|b|bs)$", re.I)
# A free first axis of such a name is a length of one sample, not a number of samples.
_LENGTH = re.compile(r"seq|len|time|frame|token|past|step|position|layer|head|height|width|^(h|w|t|s|l)$", re.I)


@dataclass(frozen=True)
class Interface:
    """The inputs of a model that a caller feeds.

    Attributes:
        ports: The inputs, in the graph's order.
        axes: The batch axis of each input, where all have one and agree on its length; else None: feeds are then
            neither cut nor joined.
        safe: Whether this is certain from the declaration (one input, one name or one fixed length for all).
    """

    ports: tuple[Port, ...]
    axes: dict[str, int] | None
    safe: bool

    @property
    def fixed(self) -> int | None:
        """Samples that every run takes, None where any number goes."""
        return self.ports[0].fixed if self.axes else None

    @property
    def names(self) -> list[str]:
        """Names of the inputs."""
        return [port.name for port in self.ports]

    def pick(self, given: Mapping[Any, Any], where: str) -> dict[str, Any]:
        """What belongs to the inputs, by name and in their order.

        Raises:
            InputError: An input is missing.
        """
        for name in self.names:
            if name not in given:
                hint = _closest(name, [str(g) for g in given], self.names)
                raise InputError(f"{where}: nothing for input '{name}'", hint)
        return {name: given[name] for name in self.names}

    def extra(self, given: Iterable[Any]) -> tuple[str, ...]:
        """Names that are neither inputs nor labels."""
        return tuple(str(g) for g in given if g not in self.names and g != LABELS)

    def rows(self, shapes: Mapping[str, Shape], where: str) -> int | None:
        """Samples in a feed of these shapes; None for one that is only fed whole.

        An input that lacks just its batch axis counts as one sample.

        Raises:
            InputError: Shapes do not fit the inputs, or inputs have different numbers of samples.
        """
        cut = self.axes if self.safe else None
        lengths: dict[str, int] = {}
        for port in self.ports:
            shape = self.batched(port, shapes[port.name])
            port.demand(shape, where, any_batch=cut is not None)
            if cut is not None and not shape:  # of undeclared rank
                raise port.misfit(shape, where)
            if cut is not None:
                lengths[port.name] = shape[cut[port.name]]
        if len(set(lengths.values())) > 1:
            raise InputError(f"{where}: {_counted(lengths)}", "every input needs as many samples as the others")
        return next(iter(lengths.values()), None)

    def batched(self, port: Port, shape: Shape) -> Shape:
        """The shape with a batch axis of 1, where that is all it lacks."""
        if self.axes and port.dims is not None and len(shape) == len(port.dims) - 1:
            axis = self.axes[port.name]
            return (*shape[:axis], 1, *shape[axis:])
        return shape

    def read(self, given: Any, where: str) -> tuple[Feed, int | None]:
        """A feed as the model takes it, and the samples in it (see `rows`).

        Args:
            given: Arrays by input name, or one array for a model of one input.
            where: What to call it in messages.

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
        for port in self.ports:
            array = feed[port.name]
            feed[port.name] = port.cast(array.reshape(self.batched(port, array.shape)), where)
        return feed, count

    def named(self, given: Any, where: str) -> Mapping[Any, Any]:
        """Arrays by name; a single array belongs to the only input.

        Raises:
            InputError: It is neither, or there are several inputs.
        """
        if isinstance(given, Mapping):
            return given
        if hasattr(given, "__array__") and len(self.ports) == 1:
            return {self.names[0]: given}
        raise InputError(
            f"{where}: is {type(given).__name__}, not a dict of arrays", f"give a dict with {', '.join(self.names)}"
        )


def interface_of(proto: onnx.ModelProto) -> Interface:
    """The inputs of a model, and what can be said of their batch axes.

    Samples lie along the axis that is called like a batch, else along axis 0 unless its name says that it is something
    else. A fixed length there is the number of samples that every run takes.

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
    ports = tuple(
        Port(
            v.name,
            np.dtype(helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type)),
            declared[v.name],
            _batch_axis(declared[v.name], symbol),
        )
        for v in values
    )
    sizes = {port.dims[port.axis] if port.dims and port.axis is not None else "" for port in ports}
    agree = len({p.fixed for p in ports}) == 1 and all(p.axis is not None for p in ports)
    axes = {p.name: p.axis for p in ports if p.axis is not None} if agree else None
    safe = axes is not None and (len(ports) == 1 or (len(sizes) == 1 and sizes != {""}))
    return Interface(ports, axes, safe)


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
    # Where another input has a batch axis by name, a fixed or otherwise named axis is none.
    named = dims[0] != "" and not (isinstance(dims[0], str) and _BATCH.search(dims[0]))
    return None if symbol is not None and named else 0


def _counted(lengths: Mapping[str, int]) -> str:
    return ", ".join(f"'{name}' has {n} samples" for name, n in lengths.items())


def _closest(name: str, given: list[str], names: list[str]) -> str:
    folded = {g.casefold(): g for g in given}
    near = difflib.get_close_matches(name.casefold(), list(folded), n=1)
    listed = f"given: {', '.join(given) or 'nothing'}; inputs: {', '.join(names)}"
    return f"is it '{folded[near[0]]}'? {listed}" if near else listed
