"""Structural pruning of trained ONNX models, without the framework that trained them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from onnxprune.errors import InputError, OnnxPruneError, OutputError, VerificationError

if TYPE_CHECKING:
    from onnxprune.api import Analysis, Result, analyze, apply, plan, prune, score, verify
    from onnxprune.ops.registry import rule
    from onnxprune.options import Options
    from onnxprune.planning.plan import Plan

__version__ = "0.1.0"

__all__ = [
    "Analysis",
    "InputError",
    "OnnxPruneError",
    "Options",
    "OutputError",
    "Plan",
    "Result",
    "VerificationError",
    "analyze",
    "apply",
    "plan",
    "prune",
    "rule",
    "score",
    "verify",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent, unless the caller wants to hear it

_HOME = {"Options": "onnxprune.options", "Plan": "onnxprune.planning.plan", "rule": "onnxprune.ops.registry"}


def __getattr__(name: str) -> Any:
    """Imports on first use: onnx is not loaded for ``--help``."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME.get(name, "onnxprune.api")), name)
