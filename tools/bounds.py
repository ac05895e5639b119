"""Runs the tests against the built wheel with the lowest, or the newest, dependencies that pyproject.toml allows.

    python tools/bounds.py lowest                     # this Python
    python tools/bounds.py newest --python python3.10 -- -q -x tests/model/test_model.py

Everything happens in a temporary folder: the wheel is built and installed into an environment of its own, and the tests
run from a copy without the package's sources. What follows ``--`` goes to pytest.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE")
BESIDE = ("tests", "models", "tools", "docs", ".ci", "pyproject.toml", *DOCUMENTS)
"""What the tests read besides the installed package."""


def requirements(which: str) -> list[str]:
    """The declared dependencies, each pinned to its lower bound where the lowest are asked for."""
    with open(ROOT / "pyproject.toml", "rb") as stream:
        project: dict[str, Any] = tomllib.load(stream)["project"]
    declared = [
        *project["dependencies"],
        *project["optional-dependencies"]["test"],
        *project["optional-dependencies"]["images"],
    ]
    return [re.sub(r">=([\w.]+)", r"==\1", one) for one in declared] if which == "lowest" else declared


def main() -> int:
    """Builds, installs and tests; the exit status is pytest's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["lowest", "newest"])
    parser.add_argument("--python", default=sys.executable, help="the interpreter to make the environment of")
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    asked, given = parser.parse_args(words[:end]), words[end + 1 :] or ["-q", "-n", "2"]
    with tempfile.TemporaryDirectory(prefix="onnxprune-bounds-") as made:
        folder = Path(made)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

        def run(*command: str | Path, check: bool = True) -> int:
            return subprocess.run(command, cwd=folder, env=environment, check=check).returncode

        run(asked.python, "-m", "venv", folder / "venv")
        python = folder / "venv" / "bin" / "python"
        run(python, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", folder, ROOT)
        wheel = next(folder.glob("*.whl"))
        run(python, "-m", "pip", "install", "-q", "--upgrade", wheel, *requirements(asked.which))
        run(python, "-m", "pip", "check")
        run(python, "-m", "pip", "list")
        for name in BESIDE:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, folder / name)
        where = "import onnxprune; print(onnxprune.__file__); assert 'site-packages' in onnxprune.__file__"
        run(python, "-c", where)
        return run(python, "-m", "pytest", *given, check=False)


if __name__ == "__main__":
    sys.exit(main())
