"""The unpruned model of a run, loaded again whenever a stage needs it."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.model.model import Model, load
from onnxprune.pipeline.analysis import ModelSource, inline_functions, load_dense, to_proto_or_path
from onnxprune.runtime.session import Source


@dataclass(frozen=True)
class Original:
    """An unpruned model, which is never modified.

    Attributes:
        source: What onnxruntime runs: its file, its proto, or a model in memory.
        as_graph: Whether the caller gave a `gs.Graph`, and gets one back.
    """

    source: Source
    as_graph: bool = False

    @classmethod
    def of(cls, model: ModelSource) -> Original:
        """The original of whatever a caller holds.

        Raises:
            InputError: It is no model.
        """
        source = to_proto_or_path(model)
        return cls(source, as_graph=source is not model)

    def load(self) -> Model:
        """A copy as it is stored."""
        return self.source.copy() if isinstance(self.source, Model) else load(self.source)

    def dense(self) -> Model:
        """A copy in which all weights are dense, and local functions without a rule are inlined: as it is analysed."""
        if isinstance(self.source, Model):
            return self.source.copy()
        model = load_dense(self.source)
        inline_functions(model)
        return model
