"""Facts of operators are held in their records: no other list of names, and none that a caller cannot declare too."""

from __future__ import annotations

import ast
import functools
import typing
from collections.abc import Iterator

import numpy as np
import onnx
import pytest

from onnxprune.graph import operators
from onnxprune.graph.graph import Graph
from onnxprune.graph.operators import Copies, Facts, Operator, Postprocessing, known_operators
from onnxprune.layers.find import linear_layers
from onnxprune.model.model import load
from onnxprune.ops import registry
from onnxprune.ops.op import Op
from onnxprune.repair.augmentation import _sliding_axes
from onnxprune.repair.layer_samples import bounds, residual_add
from onnxprune.runtime.partition import partition
from onnxprune.verification.comparable_outputs import with_comparable_outputs
from tests.ops.case import build
from tests.support.paths import PACKAGE
from tests.support.sources import FILES, parsed

DOMAIN = "my.ops"

NAMED = {
    "edit/bypass.py": {"Identity", "Sub"},  # nodes that it inserts
    "edit/refill.py": {"Pad", "Slice"},  # nodes that it inserts
    "edit/remove.py": {"Add", "Concat", "Div", "Gather", "Mul"},  # nodes that it inserts
    "edit/vocabulary.py": {"Add", "Gather"},  # nodes that it inserts
    "gradients/backward.py": {"If", "Loop", "Scan"},  # what is differentiated body by body
    "gradients/branches.py": {"Identity"},  # nodes that it adds
    "gradients/iterations.py": {"Gather", "Identity", "Shape", "Size", "Sub"},  # nodes that it adds
    "gradients/loops.py": {"Add", "Gather", "Identity", "Transpose"},  # nodes that it adds
    "gradients/free_constants.py": {"Constant"},
    "gradients/losses.py": {  # nodes that it adds
        "Add", "Exp", "Log", "LogSoftmax", "Max", "Mul", "Neg", "Softplus", "Sub", "Transpose",
    },
    "gradients/trainable.py": {"DequantizeLinear", "Transpose"},  # what quantises, and turns, a weight
    "graph/graph.py": {"Constant"},  # holds a tensor of the model
    "graph/operators.py": set(),
    "importance/synflow.py": {"Add", "Identity", "Sub", "Where"},  # nodes that it replaces, or puts in their place
    "layers/batch_norm.py": {"BatchNormalization"},  # what the whole module is about
    "layers/quantised_activations.py": {  # operators, and those that do the same on floats
        *("QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearSoftmax", "QLinearLeakyRelu", "QLinearConcat"),
        *("QLinearGlobalAveragePool", "QLinearAveragePool", "MaxPool", "DequantizeLinear", "QuantizeLinear"),
        *("Add", "Mul", "Sigmoid", "Softmax", "LeakyRelu", "Concat", "GlobalAveragePool", "AveragePool"),
    },
    "layers/quantised_layers.py": {  # layers, and those that do the same on floats
        *("ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLinear"),
        *("QLinearConv", "QLinearMatMul", "QGemm", "MatMulNBits", "DequantizeLinear", "QuantizeLinear"),
        *("Add", "Cast", "Conv", "Gemm", "MatMul", "Mul", "Reshape"),
    },
    "model/anonymize.py": {"Constant"},
    "model/skeleton.py": {"Constant"},
    "model/sparse_initializers.py": {"Constant"},
    "model/tensors.py": {"Constant"},
    "planning/checkpoints/keras_files.py": {"GRU", "LSTM", "MultiHeadAttention", "Transpose"},  # layers of Keras
    "planning/checkpoints/keras_paths.py": {"GroupQueryAttention"},  # a layer of Keras
    "repair/interpolation.py": {"Constant"},
    "report/graph_picture.py": {"Shape", "Size"},  # computations of shapes are not drawn
    "sparsity/tensorrt.py": {"Conv", "Gemm", "MatMul"},  # what another product runs sparse
}
"""Modules outside of ``ops`` that may name operators, and which.

The other modules of ``graph`` evaluate the standard's operators on small tensors and symbolic shapes, with a function
for each: what they name is that function's.
"""


@functools.cache
def known_names() -> frozenset[str]:
    """The names of all operators."""
    return frozenset({name for _, name in known_operators()} | {s.name for s in onnx.defs.get_all_schemas()})


def names_in(tree: ast.Module) -> set[str]:
    """Operator names that stand alone, or side by side, in string literals other than docstrings."""
    nodes = list(ast.walk(tree))
    texts = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    literals = [
        node.value.split()
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts
    ]
    return {word for words in literals if words and known_names().issuperset(words) for word in words}


@pytest.mark.slow
def test_operators_are_named_beside_their_rules_only() -> None:
    found = {}
    for path in FILES:
        module = path.relative_to(PACKAGE).as_posix()
        if module in NAMED or not module.startswith(("ops/", "graph/")):
            names, allowed = names_in(parsed(path)), NAMED.get(module, set())
            assert allowed <= names, f"{module} no longer names {allowed - names}"
            found[module] = names - allowed
    assert {module: names for module, names in found.items() if names} == {}


def test_keywords_for_facts_are_those_of_the_record() -> None:
    fields = typing.get_type_hints(Operator, vars(operators) | {"Node": object, "Dim": object, "Axis": object})
    keywords = typing.get_type_hints(Facts)
    assert keywords == {name: fields[name] for name in keywords}
    functions = {"rules", "shape", "macs", "weights", "packs", "affine", "origins", "clips", "gradient", "parameters"}
    assert set(keywords) == set(fields) - functions


@pytest.mark.parametrize("declare", [registry.rule, registry.facts_of])
def test_a_fact_that_there_is_none_of_is_refused(declare: typing.Callable[..., object]) -> None:
    with pytest.raises(TypeError, match=r"no fact 'activates'.* activation"):
        declare("Any", domain=DOMAIN, activates=True)
    assert (DOMAIN, "Any") not in known_operators()


@pytest.fixture
def outside() -> Iterator[None]:
    """Operators of a caller's own domain with facts that the standard's operators have."""

    def alike(op: Op) -> None:
        """Element by element."""
        for value in op.inputs:
            for axis in value.axes():
                op.tie(axis, op.output().axis(axis.position))

    @registry.clips("Upto", domain=DOMAIN)
    def upto(node: object) -> tuple[float, float]:
        return -np.inf, 3.0

    registry.rule("Upto", domain=DOMAIN, activation=True)(alike)
    registry.rule("Plus", domain=DOMAIN, pointwise=True, adds=True)(alike)
    registry.rule("Noise", domain=DOMAIN, random=True)(alike)
    registry.rule("Odds", domain=DOMAIN, postprocessing=Postprocessing.SOFTMAX)(alike)
    registry.rule("Best", domain=DOMAIN, postprocessing=Postprocessing.CHOICE)(alike)
    registry.rule("Beside", domain=DOMAIN, copies=Copies.JOINED)(alike)
    yield
    registry.forget("Upto Plus Noise Odds Best Beside", domain=DOMAIN)


def residual(add: str, reader: str = "Relu") -> Graph:
    """A layer with a bias, added to what the layer before it made, both by one operator."""
    text = f"""(float[2,4] x) => (float[2,4] y) <float[4,4] w, float[4] b, float[4,4] v>
        {{ a = MatMul(x, w)  c = MatMul(a, v)  d = {add}(c, b)  e = {add}(d, a)  y = {reader}(e) }}"""
    model = build(text, domains=[DOMAIN])
    for name in "acdey":
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (2, 4)))
    return Graph(model)


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("add", ["Add", "Sum", "my.ops.Plus"])
def test_every_sum_of_two_is_a_bias_or_a_residual(add: str) -> None:
    graph = residual(add)
    for name in "acde":
        value = graph.main.names[name]
        value.shape = [2, 4]
    layer = next(layer for layer in linear_layers(graph) if layer.weight.name == "v")
    assert layer.bias is not None and layer.bias.name == "b" and layer.output.name == "d"
    joined = residual_add(layer)
    assert joined is not None and (joined.total, joined.other) == ("e", "a")


def test_a_sum_of_three_is_neither() -> None:
    graph = Graph(
        build("""(float[2,4] x) => (float[2,4] y) <float[4,4] w, float[4] b>
            { a = MatMul(x, w)  y = Sum(a, b, x) }""")
    )
    (layer,) = linear_layers(graph)
    assert layer.bias is None and layer.output.name == "a" and residual_add(layer) is None


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize(
    ("reader", "expected"),
    [("Relu", (0, np.inf)), ("my.ops.Upto", (-np.inf, 3)), ("Tanh", (-np.inf, np.inf)), ("Clip", (-np.inf, np.inf))],
)
def test_bounds_are_those_of_the_consumer(reader: str, expected: tuple[float, float]) -> None:
    assert bounds(residual("Add", reader).main.names["e"]) == expected


def test_bounds_of_a_clip() -> None:
    text = """(float[2] x, float m) => (float[2] z) <float[1] l, float[1] h>
        { a = Abs(x)  b = Clip(a, l, h)  c = Abs(b)  d = Clip(c, m, h)  z = Abs(d) }"""
    model = build(text, constants={"l": np.float32(-1.5), "h": np.float32(2)})
    graph = Graph(model)
    assert bounds(graph.main.names["a"]) == (-1.5, 2.0)
    assert bounds(graph.main.names["c"]) == (-np.inf, 2.0)


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("operator", ["Dropout", "my.ops.Noise"])
def test_what_may_be_random_is_run_once(operator: str) -> None:
    """It reads constants alone, and yet is no constant: two pieces must see the same output."""
    text = f"""(float[2,4] x) => (float[2,4] y) <float[4,4] w>
        {{ n = {operator}(w)  a = MatMul(x, n)  b = Relu(a)  y = MatMul(b, n) }}"""
    model = build(text, domains=[DOMAIN])
    assert all("n" not in piece.repeated for piece in partition(model, [["a"], ["y"]], ["x"]))
    assert not Graph(model).constant_nodes


@pytest.mark.usefixtures("outside")
def test_outputs_behind_postprocessing_of_any_domain() -> None:
    text = """(float[2,4] x) => (float[2,8] y, int64[2,4] z) <float[4,4] w, float[4,4] v>
        { a = MatMul(x, w)  b = MatMul(x, v)  p = my.ops.Odds(a)  q = my.ops.Odds(b)  y = my.ops.Beside(p, q)
          r = my.ops.Odds(a)  z = my.ops.Best(b) }"""
    view, _ = with_comparable_outputs(load(build(text, domains=[DOMAIN])))
    assert {o.name for o in view.proto.graph.output} == {"a", "b"}


@pytest.mark.parametrize(
    ("node", "axes"),
    [
        ("Pad (x, amounts)", {"x": (2, 3)}),
        ("Transpose <perm = [0, 1, 3, 2]> (x)", {"x": (2, 3)}),
        ("MatMul (x, amounts)", {}),
    ],
)
def test_axes_that_a_convolution_slides_over(node: str, axes: dict[str, tuple[int, ...]]) -> None:
    text = f"""(float[2,3,8,8] x) => (float y) <float[4,3,3,3] w, int64[8] amounts>
        {{ a = {node}  y = Conv(a, w) }}"""
    graph = Graph(build(text))
    for value in graph.values:
        if value.name == "a":
            value.shape = [2, 3, 8, 8]
    assert _sliding_axes(graph) == axes
