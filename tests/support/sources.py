"""The package's own source files, each read and parsed once for all tests."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

from tests.support.paths import PACKAGE

FILES = sorted(PACKAGE.rglob("*.py"))


@functools.cache
def source(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(source(path))
