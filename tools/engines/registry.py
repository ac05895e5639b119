"""The engines and tools by name, what they need, and whether that is installed."""

from __future__ import annotations

import importlib
import importlib.metadata
from types import ModuleType

ENGINES = ("openvino_cpu", "mnn", "ncnn", "tract", "torch_cpu", "tflite")
TOOLS = (
    "slim",
    "simplify",
    "ort_extended",
    "quantize_static_qdq",
    "quantize_static_qoperator",
    "quantize_dynamic",
    "ort_transformers",
    "half",
    "ort_half",
)
NAMES = (*ENGINES, *TOOLS)


def load(name: str) -> ModuleType:
    """Imports the module of an engine or a tool; it imports what it needs when it is used."""
    return importlib.import_module(f"tools.engines.{name}")


def versions(name: str) -> dict[str, str]:
    """Versions of the distributions that an engine or a tool needs.

    Raises:
        LookupError: One of them is not installed.
    """
    found = {}
    for package in load(name).PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise LookupError(f"{package} is not installed") from None
    return found
