"""Names of files that a command reads and writes, judged before any work is done."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from onnxprune.errors import InputError, PlanError
from onnxprune.model.atomic_write import atomic_write

SUFFIX = ".onnx"
OUTPUTS = "onnxprune.outputs"
"""Key of what a command will write, in the `meta` of its context."""


def target(
    model: str, output: str | None, *others: str, force: bool, kind: str = "pruned", suffix: str = SUFFIX
) -> Path:
    """Output path of a model: the named file, else ``MODEL.pruned.onnx`` beside the input.

    Args:
        model: The input.
        output: The file that was named, if one was.
        *others: Further files that are read.
        force: Whether a file may be replaced that has a default name.
        kind: What stands for ``pruned`` in its name.
        suffix: The suffix of files of its kind.

    Raises:
        InputError: The folder does not exist, the file is no file or the input, or it exists and `force` does not allow
            replacing it.
    """
    path = Path(output) if output is not None else default_target(model, kind, suffix)
    if output is None and not path.parent.is_dir():
        raise InputError(f"{model}: no such file", f"there is no folder {path.parent}")
    writable(path, model, *others)
    if output is None and not force and path.exists():
        raise InputError(f"{path}: exists already", "--force replaces it, -o names another file")
    return path


def default_target(model: str, kind: str = "pruned", suffix: str = SUFFIX) -> Path:
    """``MODEL.pruned.onnx`` beside the input."""
    path = Path(model)
    if not path.name:
        raise InputError(f"{model!r} is not the name of a model", "name an .onnx file")
    return path.with_name(f"{path.name.removesuffix(suffix)}.{kind}{suffix}")


def writable(path: Path, *inputs: str) -> None:
    """Checks that a file can be written here, and is neither one of the inputs nor another output of the command.

    Raises:
        InputError: It cannot, or it is.
    """
    folder = path.parent
    if "\0" in str(path):
        raise InputError(f"{str(path)!r} is not the name of a file")
    if not folder.is_dir():
        raise InputError(f"{path}: the folder {folder} does not exist", "create it first")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not a file", f"name a file in it, say {path / ('model' + SUFFIX)}")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is not a regular file", "name a file to write")
    if any(path.exists() and os.path.exists(one) and path.samefile(one) for one in inputs):
        raise InputError(f"{path}: is the input, which is never changed", "choose another output name")
    if path.exists() and path.suffix != SUFFIX and any(path.samefile(data) for data in _external_data(inputs)):
        raise InputError(f"{path}: holds weights of the input, which is never changed", "choose another output name")
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise InputError(f"{path}: the folder {folder} is not writable", "name a file where you may write")
    context = click.get_current_context(silent=True)
    outputs = {} if context is None else context.meta.setdefault(OUTPUTS, {})
    if outputs.setdefault(path.resolve(), path) is not path:
        raise InputError(f"{path}: is named for two outputs", "choose another name for one of them")


def _external_data(models: Sequence[str]) -> Iterator[Path]:
    """The files of external data of those inputs that are models, where they exist."""
    import onnx

    from onnxprune.model.external_data import locations

    for model in models:
        path = Path(model)
        if path.suffix != SUFFIX or not path.is_file():
            continue
        with contextlib.suppress(Exception):  # what is wrong with it is told when it is loaded
            names = locations(onnx.load(path, load_external_data=False))
            yield from (path.parent / name for name in names if (path.parent / name).is_file())


@contextlib.contextmanager
def written(path: Path | None, text: str) -> Iterator[None]:
    """Writes a text file whole or not at all: drafted before the block, there once the block has ended well."""
    if path is None:
        yield
        return
    with atomic_write(path) as made:
        made.new().write(text.encode())
        yield
        made.publish(path)


def read_plan(path: str) -> str:
    """The text of a plan.

    Raises:
        PlanError: It cannot be read or is not text.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise PlanError(f"{path}: is not a text file") from None
    except OSError as error:
        raise PlanError(f"{path}: cannot be read: {error.strerror or error}") from None
