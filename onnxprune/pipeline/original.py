"""The unpruned model of a run, loaded again whenever a stage needs it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from onnxprune.common.shared_files import SharedFiles
from onnxprune.model.model import Model, load
from onnxprune.model.stored_files import shared_files
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

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process it is the file that is there, or a copy."""
        if isinstance(self.source, (str, os.PathLike)):
            return _received, (shared_files(self.source), os.path.basename(self.source), self.as_graph)
        return Original, (self.source, self.as_graph)


def _received(files: SharedFiles, name: str, as_graph: bool) -> Original:
    return Original(files.here() / name, as_graph)
