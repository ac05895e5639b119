"""Where the repository's files are."""

from __future__ import annotations

from pathlib import Path

import onnxprune

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "models"
SHARED = ROOT.parent / "shared"
PACKAGE = Path(onnxprune.__file__).parent
