"""Resolves ``repair=auto`` for a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from onnxprune.calibration.synthetic import synthetic
from onnxprune.cost.measure import mainly_convolutions
from onnxprune.graph.graph import Graph
from onnxprune.layers.find import linear_layers
from onnxprune.layers.real_weights import RealWeights
from onnxprune.model.model import Model
from onnxprune.options import AUTO, Repair
from onnxprune.pipeline.data import logger
from onnxprune.repair.data_free import LARGEST
from onnxprune.runtime.partition import partition
from onnxprune.runtime.sample_inputs import input_dims
from onnxprune.runtime.session import session


def resolve_repair(
    model: Model, repair: Repair, *, has_data: bool, removes: bool, input_shapes: Mapping[str, Sequence[int]]
) -> tuple[Repair, str | None]:
    """Replaces ``auto`` by a method.

    Args:
        model: What is to be pruned.
        repair: The requested repair.
        has_data: Whether there are calibration data.
        removes: Whether channels are removed.
        input_shapes: Shapes by input name, where the model leaves them open.

    Returns:
        The repair, and why data-free repair was rejected, or None.
    """
    if repair.method != AUTO:
        return repair, None
    if has_data or not removes:
        return Repair("calibrated" if has_data else "none"), None
    why = why_not_data_free(model, input_shapes or None)
    logger.info("repair: %s", "data-free" if why is None else f"none, since {why}")
    return Repair("data-free" if why is None else "none"), why


def why_not_data_free(model: Model, input_shapes: Mapping[str, Sequence[int]] | None = None) -> str | None:
    """Why a repair without data is not tried; None where it is.

    Args:
        model: What is to be pruned.
        input_shapes: Shapes by input name, where the model leaves them open.
    """
    model = RealWeights(model).model
    if not linear_layers(Graph(model.proto)):
        return "no layer has a weight of its own that could be refitted"
    if not mainly_convolutions(model, input_shapes):
        return "synthetic inputs tell too little about a model that consists mainly of matrix products"
    try:
        values = sum(math.prod(shape) for shape in input_dims(model.proto, input_shapes).values())
        if values > LARGEST:
            return f"a feed of {values:,} values is too large to make many of"
        feeds = synthetic(model, 2, input_shapes=input_shapes, varied=True)
        partition(model.proto, [[layer.x.name] for layer in linear_layers(Graph(model.proto))], feeds[0])
        session(model).run(None, feeds[0])
    except Exception as e:  # whatever onnxruntime raises for a model or for inputs that it does not take
        return f"the model does not run on synthetic inputs: {(str(e).strip() or type(e).__name__).splitlines()[0]}"
    return None
