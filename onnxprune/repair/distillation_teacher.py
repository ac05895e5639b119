"""The teacher of a distillation: the original model, and what it says of each batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxprune.graph.graph import Graph, Node, Value
from onnxprune.graph.operators import Postprocessing, operator_of
from onnxprune.graph.shape_inference import infer
from onnxprune.model.model import Model
from onnxprune.repair.kept_indices import KeptIndices
from onnxprune.runtime.io_slices import WHOLE, Batch, IoSlices
from onnxprune.runtime.session import local_session
from onnxprune.verification.comparable_outputs import Component, with_comparable_outputs, with_scores
from onnxprune.verification.output_error import OutputTotals, without_outputs
from onnxprune.verification.output_values import OutputValues, Reference, class_axes

Array = NDArray[Any]
Floats = NDArray[np.float32]

MOST_FEATURES = 24
"""Features that are compared at most."""
FEWEST_SUMS = 3
"""A model with fewer sums of computed values than this has no residual branches worth the name."""


@dataclass(frozen=True)
class Views:
    """Original and pruned model with the outputs that are compared.

    Attributes:
        teacher: The original.
        student: The pruned model.
        components: What the outputs are, of both alike.
        features: Names of values inside of both models that are compared too.
        kept: What the pruned model has of the original's values.
        io_slices: What inputs and outputs of the pruned model lost.
    """

    teacher: Model
    student: Model
    components: Sequence[Component]
    features: Sequence[str]
    kept: KeptIndices
    io_slices: IoSlices

    @property
    def outputs(self) -> list[str]:
        """Names of the compared outputs."""
        return [component.name for component in self.components]


def views(original: Model, pruned: Model, kept: KeptIndices | None = None, io_slices: IoSlices = WHOLE) -> Views:
    """Makes views of both models with the same comparable outputs.

    Args:
        original: The teacher.
        pruned: The student.
        kept: What the student has of the teacher's values; None where that is not known, and only outputs are compared.
        io_slices: What inputs and outputs of the student lost.
    """
    original = without_outputs(original, io_slices.gone)
    teacher, components = with_comparable_outputs(original)
    student, others = with_comparable_outputs(pruned)
    if io_slices.removed or [c.name for c in components] != [c.name for c in others]:
        teacher, student = with_scores(original), with_scores(pruned)
        components = [Component(o.name) for o in teacher.proto.graph.output]
    features = [] if kept is None else shared_features(teacher, student)
    return Views(teacher, student, components, features, kept or KeptIndices(), io_slices)


def shared_features(teacher: Model, student: Model) -> list[str]:
    """Values that both models compute: residual sums, else what clips makes; evenly chosen where there are many."""
    graph = Graph(student.proto)
    infer(graph)
    known = {name for node in teacher.proto.graph.node for name in node.output}
    known -= {o.name for o in student.proto.graph.output}

    def outputs(nodes: Iterable[Node]) -> list[str]:
        values = [node.outputs[0] for node in nodes if node.outputs]
        return [v.name for v in values if v is not None and v.name in known and _is_map(v)]

    sums = outputs(n for n in graph.main.nodes if operator_of(n).adds and all(map(_computed, n.inputs)))
    enough = len(sums) >= FEWEST_SUMS
    found = sums if enough else outputs(n for n in graph.main.nodes if operator_of(n).clips is not None)
    step = max(1, -(-len(found) // MOST_FEATURES))
    return found[step - 1 :: step]


def _computed(value: Value | None) -> bool:
    """Whether a node computes a value."""
    return value is not None and value.tensor is None and value.producer is not None


def _is_map(value: Value) -> bool:
    return (value.rank or 0) > 1 and value.elem_type == TensorProto.FLOAT


@dataclass(frozen=True)
class Targets:
    """What the teacher says of one batch.

    Attributes:
        values: Outputs as matrices of shape (positions, channels), and features of the shape that the student has, by
            the name that `target_name` gives.
        weights: Weights of positions in squared errors, shape (positions, 1), by the number of the output.
        shares: The same for divergences; all of the samples together have the weight 1 in the mean over the batches.
    """

    values: dict[str, Array]
    weights: dict[int, Floats]
    shares: dict[int, Floats]

    def feeds(self) -> dict[str, Array]:
        """All arrays by the name of the input of the student that takes them."""
        found = dict(self.values)
        found |= {weight_name(i): array for i, array in self.weights.items()}
        return found | {share_name(i): array for i, array in self.shares.items()}


def target_name(what: int | str) -> str:
    """Name of the input with the target of an output, by its number, or of a feature, by its name."""
    return f"target/{what}"


def weight_name(output: int) -> str:
    """Name of the input with the weights of an output's positions in a squared error."""
    return f"weight/{output}"


def share_name(output: int) -> str:
    """Name of the input with the weights of an output's positions in a divergence."""
    return f"share/{output}"


class Teacher:
    """Runs the original and makes targets of its outputs.

    Attributes:
        feature_sizes: Mean square of each feature, by its name.
    """

    def __init__(self, both: Views, batches: Iterable[Batch]) -> None:
        """Sums up how much positions, outputs and features of some batches of equal size count.

        Args:
            both: The models.
            batches: Inputs of the original.
        """
        self._both = both
        self._names = [*both.outputs, *both.features]
        model = both.teacher.copy()
        del model.proto.graph.output[:]
        model.proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in self._names)
        self._session = local_session(model)
        self._values = OutputValues(both.components)
        self._totals = [OutputTotals() for _ in both.outputs]
        self._batches = 0
        sums = dict.fromkeys(both.features, 0.0)
        for feeds in batches:
            outputs, features = self._run(feeds)
            self._batches += 1
            for total, reference in zip(self._totals, self._values.reference(outputs), strict=True):
                if reference is not None:
                    total.add(reference)
            for name, array in features.items():
                sums[name] += float(np.square(array, dtype=np.float64).mean())
        self.feature_sizes = {name: max(total / max(self._batches, 1), 1e-30) for name, total in sums.items()}

    def _run(self, feeds: Batch) -> tuple[list[Array], dict[str, Array]]:
        """Outputs and features of a batch, without what the pruned model lost."""
        made, names = self._session.run(self._names, feeds), self._both.outputs
        outputs = self._both.io_slices.arrays(names, made[: len(names)])
        features = zip(self._both.features, made[len(names) :], strict=True)
        return outputs, {name: _kept_part(self._both.kept, name, array) for name, array in features}

    def outputs(self, feeds: Batch) -> list[Array]:
        """The outputs of a batch."""
        return self._both.io_slices.arrays(self._both.outputs, self._session.run(self._both.outputs, feeds))

    def targets(self, feeds: Batch) -> Targets:
        """The targets of a batch."""
        outputs, features = self._run(feeds)
        values: dict[str, Array] = {target_name(name): array for name, array in features.items()}
        weights, shares = {}, {}
        references = self._values.reference(outputs)
        for i, (component, array, reference) in enumerate(zip(self._both.components, outputs, references, strict=True)):
            if reference is None:
                continue
            rows = matrix(component, array)
            values[target_name(i)] = rows
            weights[i] = self._spread(self._totals[i].scale(), reference, len(rows))
            if component.scores is not None:
                by_position = reference.weights is not None
                part = (
                    self._totals[i].shares() * rows.shape[1]
                    if by_position
                    else np.full(1, 1 / len(rows) / self._batches)
                )
                shares[i] = self._spread(part, reference, len(rows))
        return Targets(values, weights, shares)

    def _spread(self, by_class: NDArray[np.float64], reference: Reference, positions: int) -> Floats:
        """Weights of the positions of a batch from those of classes; shape (positions, 1)."""
        weights = by_class if reference.weights is None else by_class @ reference.weights
        wide = np.broadcast_to(weights * self._batches, (positions,)).reshape(-1, 1)
        return np.ascontiguousarray(wide, np.float32)


def _kept_part(kept: KeptIndices, name: str, array: Array) -> Array:
    """What the pruned model has of a value of the original."""
    for axis, known in kept.axes.get(name, {}).items():
        indices = known.indices(array.shape[axis])
        if indices is not None:
            array = array.take(indices, axis=axis)
    return np.ascontiguousarray(array)


def matrix(component: Component, array: Array) -> Floats:
    """An output as (positions, channels): scores along the channels, of anything else one element a position.

    Scores of a softmax are taken less their mean over the channels.
    """
    axes = class_axes(component, array.shape)
    if not axes:
        return np.ascontiguousarray(array.reshape(-1, 1), np.float32)
    moved = np.moveaxis(array, tuple(axes), tuple(range(array.ndim - len(axes), array.ndim)))
    found = moved.reshape(-1, int(np.prod([array.shape[a] for a in axes]))).astype(np.float32)
    if component.scores is Postprocessing.SOFTMAX:
        found = found - found.mean(axis=1, keepdims=True)
    return np.ascontiguousarray(np.nan_to_num(found))
