"""Classical machine learning (domain ai.onnx.ml): parameters lie in attributes, which are not cut."""

from __future__ import annotations

from onnx import TensorProto

from onnxprune.graph.node_shapes import like_first
from onnxprune.ops.op import Op
from onnxprune.ops.registry import facts_of, output_shape, rule

ML = "ai.onnx.ml"

output_shape("Scaler Normalizer Imputer Binarizer", domain=ML)(like_first)
facts_of("Scaler Normalizer", domain=ML, elem_type=TensorProto.FLOAT)


@rule("LabelEncoder Binarizer", domain=ML)
def element_wise(op: Op) -> None:
    """Element by element: every axis passes."""
    zero = op.type == "Binarizer" and op.attr("threshold", 0.0) >= 0
    for axis in op.input(0).axes():
        op.tie(axis, op.output().axis(axis.position), zero=zero)


@rule(
    "Scaler Imputer Normalizer LinearClassifier LinearRegressor SVMClassifier SVMRegressor TreeEnsemble "
    "TreeEnsembleClassifier TreeEnsembleRegressor ArrayFeatureExtractor OneHotEncoder CategoryMapper "
    "FeatureVectorizer",
    domain=ML,
    any_rank=True,
)
def row_by_row(op: Op) -> None:
    """Parameters are attributes: features are pinned, rows pass."""
    rows: set[int] = set()
    if op.input(0).rank == 2 and op.type != "ArrayFeatureExtractor" and all(v.rank for v in op.outputs):
        for out in op.outputs:
            op.tie(op.input(0).axis(0), out.axis(0))
        rows = {v.axis(0).id for v in [op.input(0), *op.outputs]}
    for value in op.inputs + op.outputs:
        for axis in value.axes():
            if axis.id not in rows:
                op.pin(axis, f"parameters of {op.node.label} are attributes")


@rule("ZipMap DictVectorizer CastMap", domain=ML, any_rank=True)
def mapping(op: Op) -> None:
    """Maps and sequences: pinned."""
    op.pin_all(f"{op.node.label} works on maps")
