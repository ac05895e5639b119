"""Structured pruning by onnxsim, to hold our results against; runs under a Python that has onnxsim installed.

    PEER_PYTHON tools/peer_onnxsim.py MODEL.onnx OUT.onnx --sparsity 0.3 [--calib CALIB.npz] [--samples 64]

With calibration data the channels are ranked by its Wanda scores, without by the L2 norm. `accuracy_table.py` calls
this with one sparsity after another until the MACs are those that were asked for.
"""

from __future__ import annotations

import argparse

import numpy as np
import onnx


def feeds(path: str, model: onnx.ModelProto, samples: int) -> list[dict[str, np.ndarray]]:
    """Calibration samples as the model takes them: one batch where its batch axis is free, else one sample each."""
    known = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in known]
    with np.load(path) as data:
        arrays = {i.name: data[i.name][:samples] for i in inputs}
    free = all(not i.type.tensor_type.shape.dim[0].dim_value for i in inputs if i.type.tensor_type.shape.dim)
    count = min(len(a) for a in arrays.values())
    if free:
        return [{n: a[k:k + 16] for n, a in arrays.items()} for k in range(0, count, 16)]
    ranks = {i.name: len(i.type.tensor_type.shape.dim) for i in inputs}
    return [{n: a[k] if a.ndim > ranks[n] else a[k:k + 1] for n, a in arrays.items()} for k in range(count)]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--sparsity", type=float, required=True)
    parser.add_argument("--calib")
    parser.add_argument("--samples", type=int, default=64)
    args = parser.parse_args()
    from onnxsim import pruning

    model = onnx.load(args.model)
    if args.calib:
        made = pruning.apply_structured_wanda_pruning(model, feeds(args.calib, model, args.samples),
                                                      sparsity=args.sparsity)
    else:
        made = pruning.apply_structured_pruning(model, args.sparsity)
    onnx.save(made, args.out)


if __name__ == "__main__":
    main()
