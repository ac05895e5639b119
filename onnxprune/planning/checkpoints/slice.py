"""Slices a checkpoint of a training framework by a plan."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.common.text import plural
from onnxprune.errors import InputError, option
from onnxprune.graph.graph import Graph
from onnxprune.model.atomic_write import atomic_write
from onnxprune.model.model import Model, load
from onnxprune.planning.checkpoints.arrays import cut_array, storage
from onnxprune.planning.checkpoints.by_values import axes_of, fillers, found_by_values
from onnxprune.planning.checkpoints.cuts import Axes, Cut, TensorMap, copies, cut_of, cuts, places_of, suffixes
from onnxprune.planning.checkpoints.folded import folded
from onnxprune.planning.checkpoints.formats import open_checkpoint
from onnxprune.planning.plan import Plan


@dataclass(frozen=True)
class SlicedCheckpoint:
    """What was cut of a checkpoint.

    Attributes:
        shapes: Shape of each tensor that was cut or has zeros, before and after, by its name.
        tensors: Number of all tensors.
        warnings: Where a smaller net of the framework computes something else than the pruned model, and what is left
            out.
    """

    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    tensors: int
    warnings: tuple[str, ...] = ()


def slice_checkpoint(
    plan: Plan,
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    tensor_map: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    model: str | os.PathLike[str] | None = None,
) -> SlicedCheckpoint:
    """Slices a checkpoint that a model was exported from as a plan slices the model.

    Args:
        plan: The plan.
        checkpoint: A file ``.npz``, ``.safetensors``, ``.pt`` (``.pth``, ``.bin``, ``.ckpt``), ``.h5`` or ``.keras``.
        output: The file to write, of the same kind.
        tensor_map: What names do not say, as a mapping or in a file (see `cuts.TensorMap.from_data`).
        model: The model that the plan is for: constants of other names are found by their values in it.

    Raises:
        InputError: A file cannot be read, or the plan does not fit the checkpoint.
        OutputError: Writing failed.
    """
    source, target = Path(checkpoint), Path(output)
    if source.suffix.lower() != target.suffix.lower():
        raise InputError(
            f"{target}: a {source.suffix} file is sliced to another {source.suffix} file",
            f"{target.with_suffix(source.suffix)}, say",
        )
    if target.exists() and source.exists() and target.samefile(source):
        raise InputError(f"{target}: is the input, which is never changed", "choose another output name")
    opened = open_checkpoint(source)
    arrays = opened.arrays()
    found = _cuts(plan, arrays, _read_map(tensor_map), None if model is None else load(model))
    with atomic_write(target) as made:
        warnings = opened.write(made.new(), found)
        made.publish(target)
    return SlicedCheckpoint(
        {n: (arrays[n].shape, _left(arrays[n].shape, cut)) for n, cut in found.items()},
        len(arrays),
        (*_differences(plan), *warnings),
    )


def _differences(plan: Plan) -> Iterator[str]:
    """Where the layers of a framework compute something else than the pruned model, with the same weights."""
    if plan.refilled:
        more = f" and {plural(len(plan.refilled) - 1, 'other node')}" if len(plan.refilled) > 1 else ""
        verb = "count" if more else "counts"
        yield (
            f"{plan.refilled[0]}{more} of the pruned model still {verb} what was removed, as zeros; a layer of the "
            "smaller width does not, and makes something else until it is trained on"
        )


def slice_state(
    plan: Plan, tensors: Mapping[str, Any], *, tensor_map: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """Slices tensors that are held in memory: a state dict, say.

    Args:
        plan: The plan.
        tensors: Arrays, or tensors that numpy can read, by the names that the model was exported with.
        tensor_map: What names do not say, see `slice_checkpoint`.

    Returns:
        Arrays by the same names.

    Raises:
        InputError: The plan does not fit them.
    """
    arrays = {name: np.asarray(tensor) for name, tensor in tensors.items()}
    found = _cuts(plan, arrays, _read_map(tensor_map), None)
    return {name: cut_array(array, found[name]) if name in found else array for name, array in arrays.items()}


def _cuts(plan: Plan, arrays: Mapping[str, np.ndarray], given: TensorMap, model: Model | None) -> dict[str, Cut]:
    shapes = {name: array.shape for name, array in arrays.items()}
    changed = {*plan.removed, *plan.permuted, *plan.zeroed}
    first, *others = places_of({*plan.constants, *changed}, shapes) or [""]
    sources: list[tuple[str, str, Axes]] = []
    if model is not None:
        own = {n: a for n, a in arrays.items() if n.startswith(first) and not n.startswith(tuple(others))} or arrays
        by_map = {s[0] for a in given.tensors.values() for s in a if s}
        by_name = {suffix for name in arrays for suffix in suffixes(name)}
        sources, shifts = _by_values(model, own, given, changed - by_map - by_name)
        told = {n: axes for c, n, axes in sources if n.removeprefix(first) not in changed - by_map - {c}}
        kept = {name: [one if one and one[0] in changed else None for one in axes] for name, axes in told.items()}
        by_values = {constant for constant, _, _ in sources} & (changed - by_name)
        given = TensorMap({**kept, **given.tensors}, given.ignored | by_values | shifts)
    found = cuts(plan, shapes, given)
    for constant, name, axes in sources:
        if not cut_of(plan, name, axes, shapes[name]).same_as(found.get(name, Cut({}))):
            raise InputError(
                f"tensor {name!r} has the values of the constant {constant!r} too, which the plan cuts in another way",
                f"keep the group whole, or say with {option('tensor_map', ...)} which constant it is",
            )
    tied = _tied(arrays, found, given.ignored)
    for name, cut in list(tied.items()):
        tied |= dict.fromkeys(set(copies(name, [first, *others], shapes)) - set(found), cut)
    return {name: cut for name, cut in (found | tied).items() if cut.kept or cut.zero is not None}


def _by_values(
    model: Model, tensors: Mapping[str, np.ndarray], given: TensorMap, wanted: Collection[str]
) -> tuple[list[tuple[str, str, Axes]], set[str]]:
    """What values tell: constants with tensors of their indices and how, and constants that need no tensor.

    Args:
        model: The model.
        tensors: The tensors of the checkpoint.
        given: What the user said.
        wanted: Constants that names do not find.
    """
    values = (value for value in Graph(model.proto).constants() if value.rank)
    constants = {value.key: model.array(value.tensor) for value in values if value.tensor is not None}
    same = found_by_values(constants, tensors)
    sources = [(constant, name, axes_of(constant, order)) for constant, (name, order) in same.items()]
    sources = [source for source in sources if source[0] in wanted]
    normalized = folded(constants, tensors, {constant: name for constant, (name, _) in same.items()})
    for one in normalized:
        if one.layer is not None:
            sources.append((one.constant, one.layer[0], axes_of(one.constant, one.layer[1])))
        sources += [(one.constant, name, [(one.constant, one.axis)]) for name in one.vectors]
    told = [source for source in sources if source[1] not in given.tensors]
    lacking = fillers({name: array for name, array in constants.items() if name in wanted}, tensors)
    return told, {shift for one in normalized for shift in one.shifts} | lacking


def _tied(arrays: Mapping[str, np.ndarray], found: Mapping[str, Cut], ignored: Collection[str]) -> dict[str, Cut]:
    """The cuts of tensors that are stored once and have another name that is cut: a tied output layer, say.

    Equal numbers alone do not tell: layers that begin as copies have them as well.
    """
    cut_at = {storage(arrays[name]): cut for name, cut in found.items() if arrays[name].size}
    others = {name: array for name, array in arrays.items() if name not in found and name not in ignored}
    return {name: cut_at[at] for name, array in others.items() if array.size and (at := storage(array)) in cut_at}


def _left(shape: tuple[int, ...], cut: Cut) -> tuple[int, ...]:
    return tuple(len(cut.kept[axis]) if axis in cut.kept else length for axis, length in enumerate(shape))


def _read_map(given: str | os.PathLike[str] | Mapping[str, Any] | None) -> TensorMap:
    """The map of a mapping, or of a JSON or TOML file."""
    if given is None or isinstance(given, Mapping):
        return TensorMap() if given is None else TensorMap.from_data(dict(given))
    path = Path(given)
    try:
        text = path.read_text(encoding="utf-8")
        return TensorMap.from_data(_parsed(text) if path.suffix.lower() == ".toml" else json.loads(text))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"{option('tensor_map')}: {path} cannot be read: {reason}", "a JSON or TOML file") from error


def _parsed(text: str) -> object:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)
