"""Pruning by onnxsim, to hold our results against; runs under a Python that has onnxsim installed.

    PEER_PYTHON tools/benchmarks/peer_onnxsim.py MODEL.onnx OUT.onnx --sparsity 0.3 [--calib CALIB.npz] [--samples 64]
    PEER_PYTHON tools/benchmarks/peer_onnxsim.py MODEL.onnx OUT.onnx --zeros sparsegpt --keep 2 4 --calib CALIB.npz

Channels go; with calibration data they are ranked by its Wanda scores, without by the L2 norm. `accuracy.py`
calls this with one sparsity after another until the MACs are those that were asked for. With `--zeros` weights become
zero instead, that share of them or all but so many of every group.
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
        return [{n: a[k : k + 16] for n, a in arrays.items()} for k in range(0, count, 16)]
    ranks = {i.name: len(i.type.tensor_type.shape.dim) for i in inputs}
    return [{n: a[k] if a.ndim > ranks[n] else a[k : k + 1] for n, a in arrays.items()} for k in range(count)]


def without_defaults(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with no initializer among its inputs, which the peer would ask the calibration data for."""
    known = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in known]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)  # before that every initializer had to be an input
    return model


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--zeros", choices=["magnitude", "wanda", "sparsegpt"])
    parser.add_argument("--keep", type=int, nargs=2, metavar=("N", "M"), default=(None, None))
    parser.add_argument("--calib")
    parser.add_argument("--samples", type=int, default=64)
    args = parser.parse_args()
    from onnxsim import pruning

    model = without_defaults(onnx.load(args.model))
    n, m = args.keep
    if args.zeros == "magnitude":
        made = pruning.apply_magnitude_pruning(model, args.sparsity, n=n, m=m)
    elif args.zeros:
        choose = pruning.apply_wanda_pruning if args.zeros == "wanda" else pruning.apply_sparsegpt_pruning
        made = choose(model, feeds(args.calib, model, args.samples), sparsity=args.sparsity, n=n, m=m)
    elif args.calib:
        made = pruning.apply_structured_wanda_pruning(
            model, feeds(args.calib, model, args.samples), sparsity=args.sparsity
        )
    else:
        made = pruning.apply_structured_pruning(model, args.sparsity)
    onnx.save(made, args.out)


if __name__ == "__main__":
    main()
