"""One row of an operator's table: a model as text, and what must be said of its groups.

In the text, values that are declared between ``<`` and ``>`` and that no node makes become weights of random numbers;
names that begin with ``pos`` are positive. A letter as an axis length is a free dimension.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from onnxprune.coupling.coupling import Coupling, analyze
from onnxprune.coupling.groups import Grade, Group
from onnxprune.graph.graph import Graph
from onnxprune.model.model import load
from tests.support import oracle

FREE = 2
"""What a free dimension is when a model runs."""
DEFINED: list[Case] = []
"""Every row that was made; see `every_row`."""


@dataclass(frozen=True)
class Case:
    """A model and the groups that it must have.

    Attributes:
        name: Name of the row.
        text: The graph, in the syntax of `onnx.parser`, without ``agraph``.
        groups: Group -> ``UNITS GRADE`` or ``UNITS GRADE: part of a reason``. Every group that is not pinned is listed;
            pinned ones only where the row is about them.
        opset: Version of the standard operators.
        feeds: Contents of inputs that cannot be random.
        constants: Contents of weights that cannot be random.
        ir: IR version.
        ratio: Share of each exact group that goes.
    """

    name: str
    text: str
    groups: Mapping[str, str]
    opset: int = 18
    feeds: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    ir: int = 8
    ratio: float = 0.5

    def __post_init__(self) -> None:
        DEFINED.append(self)

    def model(self) -> onnx.ModelProto:
        """The model with its weights."""
        return build(self.text, self.opset, self.ir, self.constants)

    def inputs(self) -> dict[str, np.ndarray]:
        """Random inputs, or those that the row gives."""
        return random_feeds(self.model(), self.feeds)


def every_row() -> list[Case]:
    """The rows of all modules of this folder."""
    for info in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if info.name.startswith("test_"):
            importlib.import_module(f"tests.ops.{info.name}")
    return DEFINED


def build(
    text: str, opset: int = 18, ir: int = 8, constants: Mapping[str, Any] | None = None, domains: Sequence[str] = ()
) -> onnx.ModelProto:
    """A model from text; see the top."""
    imports = ", ".join([f'"" : {opset}', *(f'"{d}" : 1' for d in domains)])
    model = parser.parse_model(f"<ir_version: {ir}, opset_import: [{imports}]> agraph {text}")
    graph, rng = model.graph, np.random.default_rng(0)
    made = {o for node in graph.node for o in node.output}
    for info in [v for v in graph.value_info if v.name not in made]:
        dims = [d.dim_value for d in info.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        if constants and info.name in constants:
            array = np.asarray(constants[info.name], dtype=dtype).reshape(dims)
        else:
            array = rng.standard_normal(dims) / math.sqrt(max(math.prod(dims[1:]), 1)) + 0.1
            array = np.abs(array) + 0.5 if info.name.startswith("pos") else array
            array = array.astype(dtype) if dtype.kind == "f" else rng.integers(1, 5, dims).astype(dtype)
        graph.initializer.append(numpy_helper.from_array(array, info.name))
        graph.value_info.remove(info)
    return model


def random_feeds(
    model: onnx.ModelProto, given: Mapping[str, Any] | None = None, free: int = FREE, seed: int = 0
) -> dict[str, np.ndarray]:
    """Random contents for the inputs that are not given."""
    rng = np.random.default_rng(seed)
    weights = {t.name for t in model.graph.initializer}
    feeds = {}
    for info in model.graph.input:
        kind = info.type.tensor_type
        shape = [d.dim_value or free for d in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if info.name in weights:
            continue
        if info.name in (given or {}):
            feeds[info.name] = np.asarray((given or {})[info.name], dtype=dtype)
        elif kind.elem_type == TensorProto.BOOL:
            feeds[info.name] = np.asarray(rng.random(shape) < 0.5)
        elif dtype.kind in "iu":
            feeds[info.name] = rng.integers(0, 3, shape).astype(dtype)
        else:
            feeds[info.name] = rng.standard_normal(shape).astype(dtype)
    return feeds


def coupling_of(model: onnx.ModelProto, *, mixing: bool = False) -> Coupling:
    """The analysis of a copy of the model."""
    return analyze(Graph(load(model).proto), mixing=mixing)


def group(coupling: Coupling, name: str) -> Group:
    """A group by its name."""
    found = {g.name: g for g in coupling.groups}
    assert name in found, f"no group {name}; there are {', '.join(found)}"
    return found[name]


def said(g: Group) -> str:
    """A group in the words of `Case.groups`, without reasons."""
    return f"{g.units} {g.grade}"


def assert_groups(coupling: Coupling, expected: Mapping[str, str]) -> None:
    """The groups are those of the row; see `Case.groups`."""
    mine = {g.name: said(g) for g in coupling.groups if g.grade != Grade.PINNED or g.name in expected}
    wanted = {name: text.partition(": ")[0] for name, text in expected.items()}
    assert mine == wanted, f"{mine}, not {wanted}; {[(g.name, said(g), g.reasons) for g in coupling.groups]}"
    for g in coupling.groups:
        reason = expected.get(g.name, "").partition(": ")[2]
        assert any(reason in r for r in g.reasons) or not reason, f"{g.name}: {g.reasons}"
        assert bool(g.reasons) == (g.grade != Grade.EXACT)


def check(case: Case) -> None:
    """The groups are the row's, and removal from the exact ones equals masking."""
    model = case.model()
    onnx.checker.check_model(model, full_check=True)
    analysis, feeds = oracle.analyzed(model), random_feeds(model, case.feeds)
    assert_groups(analysis.coupling, case.groups)
    oracle.assert_order_is_free(model, feeds)
    expected = removable(analysis.coupling, case.ratio)
    assert oracle.assert_equivalent(model, feeds, case.ratio, analysis=analysis) == expected


def check_removal(case: Case, seed: int) -> None:
    """Removal of other units than in `check` equals masking."""
    model = case.model()
    expected = removable(coupling_of(model), case.ratio)
    assert oracle.assert_equivalent(model, random_feeds(model, case.feeds), case.ratio, seed) == expected


def removable(coupling: Coupling, ratio: float) -> int:
    """How many units of the exact groups this ratio takes."""
    return sum(min(math.ceil(ratio * g.units), g.units - 1) for g in coupling.groups if g.grade == Grade.EXACT)


def operators(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """Domain and type of every node, those of bodies too."""
    stack = [model.graph]
    while stack:
        for node in stack.pop().node:
            yield "" if node.domain == "ai.onnx" else node.domain, node.op_type
            stack += [g for a in node.attribute for g in [*([a.g] if a.HasField("g") else []), *a.graphs]]
