"""States of the optimizer in files of Keras: by number in the order of the variables, in old files by their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxprune.planning.checkpoints.arrays import Array
from onnxprune.planning.checkpoints.cuts import Cut
from onnxprune.planning.checkpoints.keras_paths import layer_paths
from onnxprune.planning.checkpoints.optimizer_states import told_by_order

STATES, NAMED = "optimizer/vars/", "optimizer_weights/"
OPTIMIZERS = ("optimizer", "optimizer_weights")
"""Groups of a file that hold them, and nothing else."""
MOST = 4
"""States that an optimizer has of one variable at most."""

PARTS = ("query_dense", "key_dense", "value_dense", "output_dense", "forward_layer", "backward_layer")
"""Parts of layers, in the order in which their variables are made."""


def state_cuts(config: Any, arrays: Mapping[str, Array], cuts: Mapping[str, Cut]) -> dict[str, Cut] | None:
    """The cuts of the states of the optimizer; None where nothing tells which weights they are of.

    Args:
        config: The configuration of the model; None where it is not known.
        arrays: What the file holds, by name.
        cuts: How the weights are cut.
    """
    by_number = [name for name in sorted((n for n in arrays if n.startswith(STATES)), key=_number) if arrays[name].ndim]
    by_name = [name for name in arrays if name.startswith(NAMED) and arrays[name].ndim]
    if not cuts or not (by_number or by_name):
        return {}
    return _by_order(by_number, config, arrays, cuts) if by_number else _by_name(by_name, arrays, cuts)


def _by_order(
    states: Sequence[str], config: Any, arrays: Mapping[str, Array], cuts: Mapping[str, Cut]
) -> dict[str, Cut] | None:
    """Keras 3 writes all states of a variable, then those of the next one; what is not trained has none."""
    names = list(_variables(config, arrays, ""))
    if None in names:
        return None
    shapes = {name: arrays[name].shape for name in names if name is not None and arrays[name].dtype.kind == "f"}
    found: list[dict[str, Cut]] = []
    for each in range(1, MOST + 1):
        rows = [states[i : i + each] for i in range(0, len(states), each)]
        if len(rows[-1]) == each and all(arrays[n].shape == arrays[row[0]].shape for row in rows for n in row):
            told = told_by_order([(row[0], arrays[row[0]].shape) for row in rows], shapes, cuts)
            if told is not None:
                found.append({n: cuts[told[row[0]]] for row in rows for n in row if told[row[0]] in cuts})
    same = found and all(
        one.keys() == found[0].keys() and all(one[n].same_as(found[0][n]) for n in one) for one in found
    )
    return found[0] if same else None


def _by_name(states: Sequence[str], arrays: Mapping[str, Array], cuts: Mapping[str, Cut]) -> dict[str, Cut] | None:
    """Older files have the path of the weight in the name of the state: ``adam/conv2d_kernel_momentum``."""
    paths = {f"_{'_'.join(_parts(n)[2:])}_": n for n in arrays if not n.startswith(NAMED) and len(_parts(n)) > 2}
    found = {}
    for state in states:
        text = f"_{'_'.join(_parts(state))}_"
        path = max(
            (p for p, n in paths.items() if p in text and arrays[n].shape == arrays[state].shape), key=len, default=""
        )
        if not path:
            return None
        if paths[path] in cuts:
            found[state] = cuts[paths[path]]
    return found


def _parts(name: str) -> list[str]:
    """The parts of a path, without the number of an output that Keras 2 ends it with."""
    return name.removesuffix(":0").split("/")


def _variables(config: Any, arrays: Mapping[str, Array], below: str) -> Iterator[str | None]:
    """Names of the variables in the order of the layers; None for a layer in whose parts they have no order."""
    layers = config.get("layers") if isinstance(config, dict) else None
    if isinstance(layers, list):
        for layer, path in zip(layers, layer_paths(layers, below), strict=True):
            yield from _variables(layer.get("config"), arrays, path)
        return
    own = [name for name in arrays if below and name.startswith(below)]
    parts = {name: name.removeprefix(below).partition("/")[0].lstrip("_") for name in own}
    if below and (len({name.rpartition("/")[0] for name in own}) == 1 or set(parts.values()) <= set(PARTS)):
        yield from sorted(own, key=lambda n: (PARTS.index(parts[n]) if parts[n] in PARTS else 0, _number(n)))
    else:
        yield None


def _number(name: str) -> int:
    last = name.rpartition("/")[2]
    return int(last) if last.isdigit() else -1
