"""One attempt, in a process of its own: ``python -m tools.engines.attempt NAME MODEL FOLDER``.

``FOLDER/samples.npz`` holds arrays by ``INDEX/INPUT``. An engine leaves ``outputs.npz`` there, a tool
``converted.onnx``; what went wrong is the last line on stderr.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tools.engines import registry

Feeds = dict[str, np.ndarray]
SECONDS = 300


class Failed(Exception):
    """A conversion or a run failed; the message is its last line."""


def engine_outputs(name: str, model: Path, feeds: Feeds, folder: Path) -> list[np.ndarray]:
    """Outputs of a model in an engine.

    Raises:
        Failed: It does not convert or run there.
    """
    _attempt(name, model, [feeds], folder)
    with np.load(folder / "outputs.npz") as found:
        return [found[key] for key in sorted(found.files, key=int)]


def converted(name: str, model: Path, samples: Sequence[Feeds], folder: Path) -> Path:
    """What a tool makes of a model.

    Raises:
        Failed: It makes nothing.
    """
    _attempt(name, model, samples, folder)
    return folder / "converted.onnx"


def _attempt(name: str, model: Path, samples: Sequence[Mapping[str, np.ndarray]], folder: Path) -> None:
    folder.mkdir(parents=True)
    np.savez(folder / "samples.npz", **{f"{i}/{key}": a for i, feeds in enumerate(samples) for key, a in feeds.items()})
    command = [sys.executable, "-m", "tools.engines.attempt", name, str(model.resolve()), str(folder.resolve())]
    root = Path(__file__).parents[2]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise Failed(f"no result after {SECONDS} s") from None
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise Failed(f"{lines[-1].strip()[-200:] if lines else ''} (exit {done.returncode})")


def main(name: str, model: Path, folder: Path) -> None:
    """Runs an engine or a tool on what the folder holds."""
    samples: list[Feeds] = []
    with np.load(folder / "samples.npz") as stored:
        for key in stored.files:
            index, _, name_of_input = key.partition("/")
            samples.extend({} for _ in range(int(index) + 1 - len(samples)))
            samples[int(index)][name_of_input] = stored[key]
    module = registry.load(name)
    if name in registry.TOOLS:
        module.convert(model, folder / "converted.onnx", samples)
        return
    found = module.outputs(model, samples[0], folder)
    np.savez(folder / "outputs.npz", **{str(i): array for i, array in enumerate(found)})


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
