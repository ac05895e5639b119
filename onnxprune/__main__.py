"""``python -m onnxprune`` is the command ``onnxprune``."""

from __future__ import annotations

import sys

from onnxprune.cli import main

if __name__ == "__main__":
    sys.exit(main())
