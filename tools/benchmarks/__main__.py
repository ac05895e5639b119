"""The runner of all benchmarks; see the package."""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

import onnxprune

NAMES = (
    "prune",
    "analysis",
    "permutation",
    "zeros",
    "accuracy",
    "told",
    "preprocessing",
    "max_drop",
    "sensitivity",
    "sliders",
    "latency",
    "engines",
    "sparsity",
    "streaming",
    "language",
    "experts",
    "requantised",
    "compare_peer",
)


def main(words: list[str]) -> int:
    """Runs one benchmark, prints its rows as they are done, and writes them as JSON where asked."""
    if not words or words[0] not in NAMES:
        print(f"usage: python -m tools.benchmarks {{{','.join(NAMES)}}} [options] [--json FILE]", file=sys.stderr)
        return 2
    name = words[0]
    module = importlib.import_module(f"tools.benchmarks.{name}")
    parser = argparse.ArgumentParser(
        prog=f"python -m tools.benchmarks {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every row, after each")
    args = parser.parse_args(words[1:])
    done: list[dict[str, Any]] = []
    lines, status = [], 0
    for row in module.rows(args):
        done.append(row)
        print("  ".join(f"{k} {_shown(v)}" for k, v in row.items() if v not in (None, "")), flush=True)
        if args.json:
            args.json.write_text(json.dumps({"benchmark": name, **_machine(), "rows": done}, indent=1))
    if hasattr(module, "verdict"):
        lines, status = module.verdict(done, args)
    for line in lines:
        print(line)
    return int(status)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _machine() -> dict[str, str]:
    """What the figures depend on besides the code."""
    return {
        "onnxprune": onnxprune.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
