"""Shapes of intermediate values from one run, where static inference does not know them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from onnxprune.cost.macs import is_heavy
from onnxprune.errors import InputError, RunError
from onnxprune.model.model import Model
from onnxprune.runtime.sample_inputs import candidate_sizes, sample_inputs
from onnxprune.runtime.session import Feeds, Runnable, runnable


def traced_shapes(model: Model, feeds: Feeds) -> dict[str, tuple[int, ...]]:
    """Shapes of the values that convolutions and matrix products read and write, as one run shows them.

    For `macs.macs_from_shapes`, where static inference leaves something open.

    Raises:
        RunError: onnxruntime does not take the model or the inputs.
    """
    graph = model.proto.graph
    constant = {t.name for t in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    wanted = {v for n in graph.node if is_heavy(n) for v in (*n.input, *n.output) if v and v not in constant}
    extra = sorted(wanted - {v.name for v in (*graph.input, *graph.output)})
    # Serialized messages merge when they are concatenated: these outputs join those that the graph has.
    more = onnx.ModelProto(graph=onnx.GraphProto(output=[onnx.ValueInfoProto(name=v) for v in extra]))
    with runnable(model) as ready:
        if isinstance(ready.payload, str):  # a file of our own, in a folder of its own
            path = Path(ready.payload).with_name("traced.onnx")
            path.write_bytes(Path(ready.payload).read_bytes() + more.SerializeToString())
            one = Runnable(str(path)).session(optimize=False)
        else:
            content = ready.payload + more.SerializeToString()
            one = Runnable(content, ready.data_folder).session(optimize=False)
    found = {name: np.shape(a) for name, a in zip(one.outputs, one.run(None, feeds), strict=True)}
    return found | {name: np.shape(a) for name, a in feeds.items()}


def sampled_shapes(model: Model, input_shapes: Mapping[str, Sequence[int]] | None = None) -> dict[str, tuple[int, ...]]:
    """Shapes of one run on sample inputs of the first sizes that the model takes; empty where it takes none of them."""
    try:
        for sizes in candidate_sizes(model.proto, input_shapes):
            try:
                return traced_shapes(model, sample_inputs(model.proto, input_shapes=input_shapes, sizes=sizes))
            except RunError as error:
                if error.fatal:
                    break
    except InputError:  # no inputs can be made
        pass
    return {}
