"""Gates: how far the outputs of a pruned model may be from the original's for it to be let through."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.errors import InputError
from onnxprune.model.model import Model
from onnxprune.model.tensors import FLOATS
from onnxprune.options import split_gate
from onnxprune.runtime.io_slices import Batch, IoSlices
from onnxprune.runtime.session import session
from onnxprune.verification.check import Drift, is_numeric


@dataclass(frozen=True)
class Gate:
    """What is asked of some outputs; the worst of them counts.

    Attributes:
        name: As it was asked for: ``drift``, or ``drift:OUTPUT`` for one output.
        kind: ``drift`` (relative RMS, at most), ``cosine`` or ``agreement`` (of the largest score, both at least).
        outputs: The outputs that it watches.
        limit: The number that was asked for.
    """

    name: str
    kind: str
    outputs: Sequence[str]
    limit: float

    def verdict(self, found: Mapping[str, Mapping[str, float | None]]) -> dict[str, Any]:
        """Asked, measured and met; measured is None, and the gate missed, where an output cannot be compared."""
        values = [found[name][self.kind] if name in found else None for name in self.outputs]
        known = [v for v in values if v is not None]
        if len(known) < len(values):
            return {"asked": self.limit, "measured": None, "met": False}
        worst = max(known) if self.kind == "drift" else min(known)
        met = worst <= self.limit if self.kind == "drift" else worst >= self.limit
        return {"asked": self.limit, "measured": worst, "met": bool(met)}


def opened(proto: onnx.ModelProto, asked: Mapping[str, float], *, data: bool) -> list[Gate]:
    """The gates of a run.

    Drift and cosine are of outputs of real numbers unless one is named, or none is of real numbers: of integers only
    those are quantities, which nobody can tell, and a choice moves by leaps. Agreement is of the first output.

    Args:
        proto: The model.
        asked: Limit by gate.
        data: Whether there are calibration data.

    Raises:
        InputError: An output is unknown or of no use for a gate, or agreement is asked for without data.
    """
    tensors = {o.name: o.type.tensor_type for o in proto.graph.output if o.type.HasField("tensor_type")}
    numbers = [n for n, t in tensors.items() if t.elem_type != onnx.TensorProto.STRING]
    reals = [n for n in numbers if tensors[n].elem_type in FLOATS]
    gates = []
    for name, limit in asked.items():
        kind, output = split_gate(name)
        if kind == "agreement" and not data:
            raise InputError(
                f"gate {name} needs calibration data: made-up inputs belong to no class",
                "give some with --calib, or ask for drift or cosine",
            )
        usable = list(tensors) if kind == "agreement" else numbers
        if output and output not in usable:
            near = difflib.get_close_matches(output, usable, n=1)
            what = "cannot be compared" if any(o.name == output for o in proto.graph.output) else "does not exist"
            raise InputError(
                f"gate {name}: output {output!r} {what}",
                f"did you mean {near[0]!r}?" if near else f"there are {', '.join(usable) or 'none'}",
            )
        watched = [output] if output else usable[:1] if kind == "agreement" else reals or numbers
        if not watched:
            raise InputError(f"gate {name}: the model has no output that can be compared")
        if kind == "agreement" and watched[0] in reals and tensors[watched[0]].HasField("shape"):
            class_axis([d.dim_value or None for d in tensors[watched[0]].shape.dim], watched[0])
        gates.append(Gate(name, kind, watched, limit))
    return gates


def on_data(
    gates: Sequence[Gate], original: Model, pruned: Model, batches: Iterable[Batch], io_slices: IoSlices
) -> dict[str, dict[str, float | None]]:
    """Drift, cosine and agreement of every watched output over batches of inputs.

    Args:
        gates: What is asked.
        original: The model before pruning.
        pruned: The model after it.
        batches: Inputs of the original; gone through twice.
        io_slices: What inputs and outputs of the pruned model lost.

    Raises:
        InputError: An output that agreement is asked of chooses nothing.
        RunError: onnxruntime does not take a model or the inputs.
    """
    names = list(dict.fromkeys(n for g in gates for n in g.outputs))
    choosing = {n for g in gates if g.kind == "agreement" for n in g.outputs}
    sums = {n: _Sums(n, n in choosing) for n in names}
    before = session(original).each(batches, names)
    after = session(pruned).each(io_slices.batches(batches), names)
    for whole, made in zip(before, after, strict=True):
        for name, a, b in zip(names, io_slices.arrays(names, whole), made, strict=True):
            sums[name].add(np.asarray(a), np.asarray(b))
    return {name: s.found() for name, s in sums.items()}


def on_made_up(drift: Mapping[str, Drift]) -> dict[str, dict[str, float | None]]:
    """What a verification tells of every output."""
    return {name: {"drift": d.rel_rms, "cosine": d.cosine if d.rel_rms != 0 else 1.0} for name, d in drift.items()}


class _Sums:
    """Sums over batches of one output that drift, cosine and agreement follow from."""

    def __init__(self, name: str, chooses: bool) -> None:
        self._name, self._chooses, self._comparable = name, chooses, True
        self._gap = self._before = self._after = self._both = 0.0
        self._same = self._choices = 0

    def add(self, a: NDArray[Any], b: NDArray[Any]) -> None:
        """Takes in what both models made of a batch."""
        self._comparable &= a.shape == b.shape
        if not self._comparable:
            return
        if self._chooses:
            same = choices(a, self._name) == choices(b, self._name)
            self._same, self._choices = self._same + int(np.sum(same)), self._choices + same.size
        if is_numeric(a) and is_numeric(b):
            x, y = _flat(a), _flat(b)
            finite = np.isfinite(x)
            self._comparable &= np.array_equal(x[~finite], y[~finite], equal_nan=True) and np.isfinite(y[finite]).all()
            x, y = x[finite], y[finite]
            self._gap += float(np.square(x - y).sum())
            self._before, self._after = self._before + float(x @ x), self._after + float(y @ y)
            self._both += float(x @ y)

    def found(self) -> dict[str, float | None]:
        """The three numbers, None for what cannot be told."""
        if not self._comparable:
            return {"drift": None, "cosine": None, "agreement": None}
        gap, before, after = self._gap, self._before, self._after
        drift = float(np.sqrt(gap / before)) if before else (None if gap else 0.0)
        cosine = max(-1.0, min(1.0, self._both / float(np.sqrt(before * after)))) if before and after else None
        return {
            "drift": drift,
            "cosine": 1.0 if gap == 0 else cosine,
            "agreement": self._same / self._choices if self._choices else None,
        }


def choices(array: NDArray[Any], name: str) -> NDArray[Any]:
    """What an output chooses: the place of the largest score, or the values themselves where they are no reals.

    Raises:
        InputError: There is one score only.
    """
    if array.dtype.kind in "biuOUS":
        return array
    result: NDArray[Any] = array.argmax(axis=class_axis(array.shape, name))
    return result


def class_axis(dims: Sequence[int | None], name: str) -> int:
    """The axis of the classes of an output: the last, of pictures the shorter one of the second and the last.

    Raises:
        InputError: There is one score only.
    """
    first, last = (dims[1], dims[-1]) if len(dims) >= 4 else (None, None)
    axis = 1 if first is not None and last is not None and first < last else len(dims) - 1
    if not dims or dims[axis] == 1:
        raise InputError(
            f"gate agreement: output {name!r} gives one score a sample, so nothing is chosen by it",
            "ask for drift or cosine",
        )
    return axis


def _flat(array: NDArray[Any]) -> NDArray[np.float64]:
    """The numbers in a row, complex ones as two each."""
    if array.dtype.kind == "c":
        return array.astype(np.complex128).ravel().view(np.float64)
    return array.astype(np.float64).ravel()
