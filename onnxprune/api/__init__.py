"""The Python API: from model to model, and each stage of that on its own."""

from onnxprune.api.checkpoints import apply, run_plan, verify
from onnxprune.api.pruning import dry_run, plan, prune, run
from onnxprune.api.stages import analyze, measure, score
from onnxprune.pipeline.analysis import Analysis, ModelSource
from onnxprune.pipeline.result import Result

__all__ = ["Analysis", "ModelSource", "Result", "analyze", "apply", "dry_run", "measure", "plan", "prune", "run"]
__all__ += ["run_plan", "score", "verify"]
