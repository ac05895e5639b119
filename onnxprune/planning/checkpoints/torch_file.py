"""Files of PyTorch, with the states of optimizers."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from onnxprune.errors import InputError
from onnxprune.planning.checkpoints.arrays import Array, imported
from onnxprune.planning.checkpoints.cuts import Cut
from onnxprune.planning.checkpoints.optimizer_states import Shape, numbered, told_by_order


class TorchFile:
    """A file that ``torch.save`` wrote: dictionaries and lists with tensors in them, and optimizers' states."""

    def __init__(self, path: Path) -> None:
        self._torch = imported("torch", "PyTorch")
        try:
            self._tree = self._torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            kind = re.search(r"GLOBAL (\S+)", str(error))
            what = f"holds an object of {kind[1]}, and nothing in a file is run" if kind else "is no file of tensors"
            raise InputError(f"{path}: {what}", "save tensors alone: torch.save(net.state_dict(), FILE)") from error
        self._tensors = dict(_tensors(self._tree, (), self._torch))

    def arrays(self) -> Mapping[str, Array]:
        """See `CheckpointFile`."""
        return {name: self._as_array(tensor) for name, tensor in self._tensors.items()}

    def _as_array(self, tensor: Any) -> Array:
        tensor = tensor.detach()
        if tensor.layout is not self._torch.strided:
            raise InputError("the checkpoint has a sparse tensor, which cannot be sliced", "make it dense: to_dense()")
        try:
            found: Array = tensor.numpy()
        except TypeError:
            found = tensor.view(getattr(self._torch, f"uint{8 * tensor.element_size()}")).numpy()
        return found

    def write(self, out: BinaryIO, cuts: Mapping[str, Cut]) -> Sequence[str]:
        """See `CheckpointFile`."""
        parameters = _parameters(self._tree, (), cuts, self._torch)
        states = dict(_states(self._tree, (), cuts, parameters))
        averages = dict(_averages(self._tree, (), cuts, {name: tuple(t.shape) for name, t in parameters.items()}))
        self._torch.save(self._cut(self._tree, (), {**averages, **cuts, **states}), out)
        return ()

    def _cut(self, tree: Any, path: tuple[str, ...], cuts: Mapping[str, Cut]) -> Any:
        name = ".".join(path)
        if isinstance(tree, self._torch.Tensor):
            return self._cut_tensor(tree, cuts[name]) if name in cuts else tree
        if isinstance(tree, dict):
            changed: Any = type(tree)((key, self._cut(one, (*path, str(key)), cuts)) for key, one in tree.items())
            if hasattr(tree, "_metadata"):  # versions of the modules of a state dict
                changed._metadata = tree._metadata
            return changed
        if isinstance(tree, (list, tuple)):
            return type(tree)(self._cut(one, (*path, str(i)), cuts) for i, one in enumerate(tree))
        return tree

    def _cut_tensor(self, tensor: Any, cut: Cut) -> Any:
        made = tensor.detach()
        for axis, kept in cut.kept.items():
            made = made.index_select(axis, self._torch.from_numpy(kept))
        made = made if cut.zero is None else made.masked_fill(self._torch.from_numpy(cut.zero.copy()), 0)
        is_parameter = isinstance(tensor, self._torch.nn.Parameter)
        return self._torch.nn.Parameter(made, requires_grad=tensor.requires_grad) if is_parameter else made


def _tensors(tree: Any, path: tuple[str, ...], torch: Any) -> Iterator[tuple[str, Any]]:
    """All tensors of a tree, by the keys that lead to them, joined by dots."""
    if isinstance(tree, torch.Tensor):
        yield ".".join(path), tree
    else:
        for key, one in _entries(tree):
            yield from _tensors(one, (*path, str(key)), torch)


def _states(
    tree: Any, path: tuple[str, ...], cuts: Mapping[str, Cut], parameters: Mapping[str, Any]
) -> Iterator[tuple[str, Cut]]:
    """Cuts of the states of optimizers, which number the parameters.

    Args:
        tree: A part of the file.
        path: The keys that lead there.
        cuts: Cuts of the parameters, by their names in the file.
        parameters: The tensors that may be parameters, by these names, in order.

    Raises:
        InputError: Nothing tells which states are those of which parameter, or a state has another shape than it.
    """
    if isinstance(tree, dict) and set(tree) >= {"state", "param_groups"}:
        for number, name in numbered(tree, cuts, parameters).items():
            for key, state in tree["state"][number].items():
                if getattr(state, "shape", None) == parameters[name].shape:
                    yield ".".join((*path, "state", str(number), str(key))), cuts[name]
        return
    for key, one in _entries(tree):
        yield from _states(one, (*path, str(key)), cuts, parameters)


def _averages(
    tree: Any, path: tuple[str, ...], cuts: Mapping[str, Cut], shapes: Mapping[str, Shape]
) -> Iterator[tuple[str, Cut]]:
    """Cuts of lists of tensors that have the shapes of most parameters in their order, as averages may be kept."""
    if isinstance(tree, (list, tuple)) and all(hasattr(one, "shape") for one in tree) and 2 * len(tree) > len(shapes):
        told = told_by_order([(i, tuple(one.shape)) for i, one in enumerate(tree)], shapes, cuts) or {}
        yield from ((".".join((*path, str(i))), cuts[name]) for i, name in told.items() if name in cuts)
        return
    for key, one in _entries(tree):
        yield from _averages(one, (*path, str(key)), cuts, shapes)


def _entries(tree: Any) -> Iterable[tuple[Any, Any]]:
    """The entries of a dictionary or a list with their keys; none of anything else."""
    return tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()


_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def _parameters(tree: Any, path: tuple[str, ...], cuts: Mapping[str, Cut], torch: Any) -> dict[str, Any]:
    """The tensors of the first dictionary that has any of those that are cut, without what no optimizer trains."""
    here = {".".join((*path, str(key))): one for key, one in _entries(tree) if isinstance(one, torch.Tensor)}
    if any(name in cuts for name in here):
        return {name: one for name, one in here.items() if name.rpartition(".")[2] not in _BUFFERS}
    inside = (_parameters(one, (*path, str(key)), cuts, torch) for key, one in _entries(tree))
    return next((found for found in inside if found), {})
