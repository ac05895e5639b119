"""Imports of what a caller names on the command line: ``module:name``."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from onnxprune.errors import DataError, InputError


def import_object(reference: str) -> Any:
    """Imports the object `module:name`; modules in the current folder take precedence.

    Raises:
        InputError: The module cannot be imported, or has no such name.
    """
    name, _, attribute = reference.partition(":")
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        importlib.invalidate_caches()
        found: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        hint = f"is there a file {name.replace('.', '/')}.py in this folder?" if missing == name else None
        raise InputError(f"{reference}: there is no module {missing}", hint) from error
    except Exception as error:
        raise DataError(f"{reference}: module {name} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:  # at the end, so that functions can import other modules of the folder later
            sys.path.append(folder)
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [n for n in vars(found) if not n.startswith("_")] if hasattr(found, "__dict__") else []
            hint = f"it has {', '.join(public)}" if public else None
            raise InputError(f"{reference}: module {name} has no '{attribute}'", hint)
        found = getattr(found, part)
    return found
