"""2:4 zeros by polygraphy, to hold our results against; runs under a Python that has polygraphy installed.

    PEER_PYTHON tools/benchmarks/peer_polygraphy.py prune MODEL.onnx      seconds of the pruning alone
    PEER_PYTHON tools/benchmarks/peer_polygraphy.py check MODEL.onnx      names of the weights that it takes for 2:4

What `polygraphy surgeon prune` and `polygraphy inspect sparsity` do, without the loading and the words. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import time

import onnx


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["prune", "check"])
    parser.add_argument("model")
    args = parser.parse_args()
    from polygraphy.logger import G_LOGGER
    from polygraphy.tools.sparse import SparsityPruner

    G_LOGGER.module_severity = G_LOGGER.CRITICAL
    pruner = SparsityPruner(onnx.load(args.model))
    if args.what == "check":
        pruner.check()
        print(json.dumps(sorted(pruner.sparse_tensors)))
        return
    wall, cpu = time.perf_counter(), time.process_time()
    pruner.prune()
    print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}))


if __name__ == "__main__":
    main()
