"""Gates: limits on how far the outputs of a pruned model may be from those of the original."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from onnxprune.errors import InputError, option
from onnxprune.model.model import Model
from onnxprune.model.tensors import FLOATS
from onnxprune.options import split_gate
from onnxprune.runtime.io_slices import Batch, IoSlices
from onnxprune.runtime.session import session
from onnxprune.verification.as_array import as_array
from onnxprune.verification.comparable_outputs import class_scores
from onnxprune.verification.drift import Drift
from onnxprune.verification.output_sums import OutputSums, class_axis

CLASSES = {getattr(onnx.TensorProto, name) for name in ("STRING", "BOOL", "INT32", "INT64", "UINT32", "UINT64")}
"""Types of outputs that are equal or not, and have no distance (see `drift.is_classes`)."""


@dataclass(frozen=True)
class Gate:
    """A limit on one measure of some outputs; the worst output counts.

    Attributes:
        name: Name as given by the caller: ``drift``, or ``drift:OUTPUT`` for one output.
        kind: ``drift`` (relative RMS error, an upper limit), ``cosine`` (similarity) or ``agreement`` (share of equal
            top-1 classes), both lower limits.
        outputs: Names of the outputs.
        limit: The limit.
    """

    name: str
    kind: str
    outputs: Sequence[str]
    limit: float

    def verdict(self, found: Mapping[str, Mapping[str, float | None]]) -> dict[str, Any]:
        """Returns the report entry: limit, measured value and whether the gate is met.

        If an output cannot be compared, the measured value is None and the gate is missed.
        """
        values = [found[name][self.kind] if name in found else None for name in self.outputs]
        known = [v for v in values if v is not None]
        if len(known) < len(values):
            return {"asked": self.limit, "measured": None, "met": False}
        worst = max(known) if self.kind == "drift" else min(known)
        met = worst <= self.limit if self.kind == "drift" else worst >= self.limit
        return {"asked": self.limit, "measured": worst, "met": bool(met)}


def make_gates(model: Model, asked: Mapping[str, float], *, data: bool) -> list[Gate]:
    """Creates the gates of a run.

    Unless an output is named, drift and cosine apply to the floating-point outputs, or to small integers (quantised
    numbers) if there are none: larger integers may be class ids, whose difference has no meaning. Agreement applies to
    the first output.

    Args:
        model: The model.
        asked: Limit by name of the gate.
        data: Whether there are calibration data.

    Raises:
        InputError: An output is unknown or unsuitable for a gate, or agreement is requested without data.
    """
    infos = model.proto.graph.output
    tensors = {o.name: o.type.tensor_type for o in infos if o.type.HasField("tensor_type")}
    numbers = [n for n, t in tensors.items() if t.elem_type not in CLASSES]
    reals = [n for n in numbers if tensors[n].elem_type in FLOATS]
    gates = []
    for name, limit in asked.items():
        kind, output = split_gate(name)
        if kind == "agreement" and not data:
            raise InputError(
                f"gate {name} needs calibration data: synthetic inputs belong to no class",
                f"give some with {option('calib', ...)}, or ask for drift or cosine",
            )
        usable = list(tensors) if kind == "agreement" else numbers
        if output and output not in usable:
            near = difflib.get_close_matches(output, usable, n=1)
            what = "cannot be compared" if any(o.name == output for o in infos) else "does not exist"
            raise InputError(
                f"gate {name}: output {output!r} {what}",
                f"did you mean {near[0]!r}?" if near else f"there are {', '.join(usable) or 'none'}",
            )
        watched = [output] if output else usable[:1] if kind == "agreement" else reals or numbers
        if not watched:
            raise InputError(
                f"gate {name}: the model has no output of quantities, which alone have a distance",
                "ask for agreement, which compares classes",
            )
        if kind == "agreement" and watched[0] in reals and tensors[watched[0]].HasField("shape"):
            dims = [d.dim_value or None for d in tensors[watched[0]].shape.dim]
            class_axis(dims, watched[0], class_scores(model).get(watched[0]))
        gates.append(Gate(name, kind, watched, limit))
    return gates


def measure(
    gates: Sequence[Gate], original: Model, pruned: Model, batches: Iterable[Batch], io_slices: IoSlices
) -> dict[str, dict[str, float | None]]:
    """Measures drift, cosine and agreement of the outputs of all gates over batches of inputs.

    Args:
        gates: The gates.
        original: The original model.
        pruned: The pruned model.
        batches: Inputs of the original.
        io_slices: Slices that were removed from inputs and outputs of the pruned model.

    Returns:
        Output -> measure -> value, None if it cannot be measured.

    Raises:
        InputError: An output has a single score per sample, so that agreement cannot be measured.
        RunError: onnxruntime rejects a model or the inputs.
    """
    names = list(dict.fromkeys(n for g in gates for n in g.outputs))
    classified = {n for g in gates if g.kind == "agreement" for n in g.outputs}
    axes = class_scores(original)
    sums = {n: OutputSums(n, classified=n in classified, axis=axes.get(n)) for n in names}
    fed, read = itertools.tee(batches)  # in one pass: a reader may have no two at a time
    before = session(original).each(fed, names)
    left = io_slices.left(names)
    after = session(pruned).each((io_slices.feeds(feeds) for feeds in read), left)
    for expected, outputs in zip(before, after, strict=True):
        for name, a, b in zip(left, io_slices.arrays(names, expected), outputs, strict=True):
            sums[name].add(as_array(a), as_array(b))
    return {name: s.measures() for name, s in sums.items()}


def from_drift(drift: Mapping[str, Drift]) -> dict[str, dict[str, float | None]]:
    """Returns the measures of every output from the result of a verification, which has no agreement."""
    return {name: {"drift": d.rel_rms, "cosine": d.cosine if d.rel_rms != 0 else 1.0} for name, d in drift.items()}
