"""Runs the tests in a fresh environment with the lowest, or the newest, dependencies that pyproject.toml allows.

    python tools/bounds.py lowest                     # the built wheel, this Python
    python tools/bounds.py newest --install sdist
    python tools/bounds.py newest --python python3.10 -- -q -x tests/model/test_model.py

Everything happens in a temporary folder. The tests of a wheel run from a copy without the package's sources; those of a
source distribution from what it unpacks to, and those of an editable installation from there too. What follows ``--``
goes to pytest.
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
    extras = project["optional-dependencies"]
    own = f"{project['name']}["
    asked = [
        "test",
        *(extra for one in extras["test"] if one.startswith(own) for extra in one[len(own) : -1].split(",")),
    ]
    declared = [*project["dependencies"], *(one for extra in asked for one in extras[extra])]
    others = [one for one in declared if not one.startswith(own)]
    return [re.sub(r">=([\w.]+)", r"==\1", one) for one in others] if which == "lowest" else others


def main() -> int:
    """Builds, installs and tests; the exit status is pytest's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["lowest", "newest"])
    parser.add_argument("--install", choices=["wheel", "sdist", "editable"], default="wheel", help="what is installed")
    parser.add_argument("--python", default=sys.executable, help="the interpreter to make the environment of")
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    asked, given = parser.parse_args(words[:end]), words[end + 1 :] or ["-q", "-n", "2"]
    with tempfile.TemporaryDirectory(prefix="onnxprune-bounds-") as made:
        folder = Path(made)
        folder.chmod(0o755)  # some tests become another user, who must still find the package
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

        def run(*command: str | Path, at: Path = folder, check: bool = True) -> int:
            return subprocess.run(command, cwd=at, env=environment, check=check).returncode

        run(asked.python, "-m", "venv", folder / "venv")
        python = folder / "venv" / "bin" / "python"
        if asked.install == "wheel":
            run(python, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", folder, ROOT)
            package = [str(next(folder.glob("*.whl")))]
            tree = folder / "tree"
            tree.mkdir()
            for name in BESIDE:
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                copy(ROOT / name, tree / name)
        else:
            run(python, "-m", "pip", "install", "-q", "build")
            run(python, "-m", "build", "--sdist", "--outdir", folder, ROOT)
            shutil.unpack_archive(next(folder.glob("*.tar.gz")), folder, filter="data")
            tree = next(path for path in folder.glob("onnxprune-*") if path.is_dir())
            package = ["-e", str(tree)] if asked.install == "editable" else [str(next(folder.glob("*.tar.gz")))]
            if asked.install == "sdist":
                shutil.move(tree / "onnxprune", folder / "sources")  # the tests must find what was installed
        run(python, "-m", "pip", "install", "-q", "--upgrade", *package, *requirements(asked.which))
        run(python, "-m", "pip", "check")
        run(python, "-m", "pip", "list")
        place = str(tree) if asked.install == "editable" else "site-packages"
        where = f"import onnxprune; print(onnxprune.__file__); assert {place!r} in onnxprune.__file__"
        run(python, "-c", where, at=tree)
        return run(python, "-m", "pytest", *given, at=tree, check=False)


if __name__ == "__main__":
    sys.exit(main())
