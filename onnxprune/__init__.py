"""Structural pruning of trained ONNX models, without the framework that trained them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from onnxprune.errors import (
    DataError,
    GateError,
    InputError,
    InternalError,
    ModelError,
    OnnxPruneError,
    OutputError,
    PlanError,
    RunError,
    TimeLimitError,
    VerificationError,
)

if TYPE_CHECKING:
    from onnxprune.api import Analysis, ModelSource, Result, analyze, apply, measure, plan, prune, run, score, verify
    from onnxprune.common.progress import Progress
    from onnxprune.engines.times import Times
    from onnxprune.extensions.metrics import metric
    from onnxprune.extensions.patterns import Pattern, pattern
    from onnxprune.extensions.points import cost_model, criterion, data_source, repair_method, zero_criterion
    from onnxprune.extensions.views import GroupView, WeightView
    from onnxprune.importance.group_lasso import group_lasso
    from onnxprune.ops.registry import rule
    from onnxprune.options import Options
    from onnxprune.pipeline.compare import compare
    from onnxprune.pipeline.finetune import FineTuned, finetune
    from onnxprune.pipeline.refit import RepairJob
    from onnxprune.pipeline.sensitivity import sensitivity
    from onnxprune.pipeline.sweep import sweep
    from onnxprune.pipeline.vocabulary import SmallVocabulary, cut_vocabulary
    from onnxprune.planning.checkpoints.slice import slice_checkpoint, slice_state
    from onnxprune.planning.plan import Plan
    from onnxprune.repair.layerwise import Refit
    from onnxprune.report.report import Report

__version__ = "0.1.0"

__all__ = [
    "Analysis",
    "DataError",
    "FineTuned",
    "GateError",
    "GroupView",
    "InputError",
    "InternalError",
    "ModelError",
    "ModelSource",
    "OnnxPruneError",
    "Options",
    "OutputError",
    "Pattern",
    "Plan",
    "PlanError",
    "Progress",
    "Refit",
    "RepairJob",
    "Report",
    "Result",
    "RunError",
    "SmallVocabulary",
    "TimeLimitError",
    "Times",
    "VerificationError",
    "WeightView",
    "analyze",
    "apply",
    "compare",
    "cost_model",
    "criterion",
    "cut_vocabulary",
    "data_source",
    "finetune",
    "group_lasso",
    "measure",
    "metric",
    "pattern",
    "plan",
    "prune",
    "repair_method",
    "rule",
    "run",
    "score",
    "sensitivity",
    "slice_checkpoint",
    "slice_state",
    "sweep",
    "verify",
    "zero_criterion",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent, unless the caller wants to hear it

_HOME = {
    "GroupView": "onnxprune.extensions.views",
    "Options": "onnxprune.options",
    "Pattern": "onnxprune.extensions.patterns",
    "Plan": "onnxprune.planning.plan",
    "Progress": "onnxprune.common.progress",
    "Refit": "onnxprune.repair.layerwise",
    "RepairJob": "onnxprune.pipeline.refit",
    "Report": "onnxprune.report.report",
    "Times": "onnxprune.engines.times",
    "WeightView": "onnxprune.extensions.views",
    "compare": "onnxprune.pipeline.compare",
    "cost_model": "onnxprune.extensions.points",
    "criterion": "onnxprune.extensions.points",
    "data_source": "onnxprune.extensions.points",
    "metric": "onnxprune.extensions.metrics",
    "pattern": "onnxprune.extensions.patterns",
    "repair_method": "onnxprune.extensions.points",
    "rule": "onnxprune.ops.registry",
    "FineTuned": "onnxprune.pipeline.finetune",
    "finetune": "onnxprune.pipeline.finetune",
    "group_lasso": "onnxprune.importance.group_lasso",
    "sensitivity": "onnxprune.pipeline.sensitivity",
    "slice_checkpoint": "onnxprune.planning.checkpoints.slice",
    "slice_state": "onnxprune.planning.checkpoints.slice",
    "sweep": "onnxprune.pipeline.sweep",
    "zero_criterion": "onnxprune.extensions.points",
    "SmallVocabulary": "onnxprune.pipeline.vocabulary",
    "cut_vocabulary": "onnxprune.pipeline.vocabulary",
}


if not TYPE_CHECKING:  # a type checker must refuse names that there are not

    def __getattr__(name: str) -> Any:
        """Imports on first use: onnx is not loaded for ``--help``."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        return getattr(importlib.import_module(_HOME.get(name, "onnxprune.api")), name)


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*(name for name in globals() if name.startswith("__")), *__all__})
