"""Configurations beside a language model: sizes in them that are other ones after pruning.

``genai_config.json`` (onnxruntime-genai) and ``config.json`` (transformers, Optimum) say how many heads and words a
model has and how wide it is; a runtime makes caches of these sizes. What they are is read off both graphs: from the
caches, the table that ids are looked up in, products of activations and fused attention.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from onnxprune.calibration.token_ids import SPECIAL
from onnxprune.common.text import printable
from onnxprune.edit.vocabulary import find_vocabulary
from onnxprune.errors import InputError
from onnxprune.graph.graph import Graph, Node, Value
from onnxprune.graph.operators import operator_of
from onnxprune.graph.shape_inference import infer
from onnxprune.model.atomic_write import atomic_write
from onnxprune.model.model import load

NAMES = ("genai_config.json", "config.json")
KEYS = {
    "queries": ("num_attention_heads", "n_head"),
    "keys": ("num_key_value_heads",),
    "size": ("head_size", "head_dim"),
    "width": ("hidden_size", "n_embd"),
    "inner": ("intermediate_size", "ffn_dim", "n_inner"),
    "words": ("vocab_size",),
}
"""What is read off a graph, and the keys that have it."""
LAYERS = ("num_hidden_layers", "num_layers", "n_layer")
"""Keys of the number of layers: a runtime numbers as many caches."""
Sizes = dict[str, dict[str, int]]
"""Of each kind of size those of the graph, by the value that has it."""


@dataclass(frozen=True)
class Corrected:
    """A configuration for the pruned model.

    Attributes:
        name: Its file.
        text: Its content, JSON.
        changes: Key -> number before and after.
        left: Key -> why it was left as it was, though it is no longer true.
    """

    name: str
    text: str
    changes: dict[str, tuple[int, int]] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def line(self, path: Path) -> str:
        """What a report says of it."""
        said = [f"{key} {old} -> {new}" for key, (old, new) in self.changes.items()]
        said += [f"{key} left as it was: {why}" for key, why in self.left.items()]
        return f"wrote {printable(str(path))}: {'; '.join(said) or 'names and ids'}"


def corrected(
    original: Path,
    pruned: onnx.ModelProto,
    file: str,
    new_ids: Mapping[int, int] | None = None,
    words: int | None = None,
) -> list[Corrected]:
    """The configurations in the folder of a model that are not true of what became of it, as they should be.

    Args:
        original: The file of the model.
        pruned: The pruned model.
        file: Name of its file.
        new_ids: The new ids of words, where they have some.
        words: How many words the outputs have a value for, where the vocabulary was cut.
    """
    given = {name: data for name in NAMES if (data := _read(original.with_name(name))) is not None}
    if not given or not original.is_file():
        return []
    try:
        before = Graph(load(original, weights=False).proto)
    except InputError:  # it is no longer what was pruned
        return []
    after = Graph(pruned)
    old, new = _sizes(before), _sizes(after)
    if words is not None:
        new["words"] = {"ids": words}
    files = original.name, file
    layers = _cache_numbers(before), _cache_numbers(after)
    made = (_one(name, data, old, new, layers, files, new_ids or {}) for name, data in given.items())
    return [one for one in made if one.left or json.loads(one.text) != given[one.name]]


def write_corrected(
    original: Path,
    pruned: onnx.ModelProto,
    target: Path,
    new_ids: Mapping[int, int] | None = None,
    words: int | None = None,
) -> list[str]:
    """Writes the configurations beside a pruned model, and says what is other in each.

    They keep their names, unless the folder has another model's file of that name, as that of the original has: then
    the name of the model comes first.

    Raises:
        OutputError: Writing failed.
    """
    lines, owned = [], _are_own(original, target)
    for one in corrected(original, pruned, target.name, new_ids, words):
        path = target.with_name(one.name)
        if path.exists() and not owned:
            path = target.with_name(f"{target.name.removesuffix('.onnx')}.{one.name}")
        with atomic_write(path) as made:
            made.new().write(one.text.encode())
            made.publish(path)
        lines.append(one.line(path))
    return lines


def _are_own(original: Path, target: Path) -> bool:
    """Whether the configurations beside a target, if any, are its own: one names it, or no other model is there."""
    made_for = _read(target.with_name(NAMES[0]))
    if made_for is not None:
        return target.name in _file_names(made_for)
    elsewhere = target.parent.resolve() != original.parent.resolve()
    return elsewhere and all(path == target for path in target.parent.glob("*.onnx"))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _file_names(data: Any) -> Iterator[Any]:
    """The files that a configuration names."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from [value] if key == "filename" else _file_names(value)


def _one(
    name: str,
    data: dict[str, Any],
    old: Sizes,
    new: Sizes,
    layers: tuple[list[int], list[int]],
    files: tuple[str, str],
    new_ids: Mapping[int, int],
) -> Corrected:
    changes, left = dict[str, tuple[int, int]](), dict[str, str]()

    def entry(key: str, value: Any) -> Any:
        if key in SPECIAL and new_ids:
            return [_new_id(i, new_ids) for i in value] if isinstance(value, list) else _new_id(value, new_ids)
        if (key, value) == ("filename", files[0]):
            return files[1]
        kind = next((kind for kind, keys in KEYS.items() if key in keys), "")
        numbers = _numbers(value, old.get(kind, {}), new.get(kind, {}))
        if key in LAYERS and layers[0] == list(range(value if isinstance(value, int) else 0)) != layers[1]:
            numbers = [len(layers[1])] if layers[1] == list(range(len(layers[1]))) else []
            if not numbers:
                left[key] = f"caches are numbered {_listed(layers[1])} now, and a runtime numbers them through"
        if len(numbers) > 1:
            left[key] = f"the layers have {_listed(numbers)}, and one number is for all of them"
        if len(numbers) != 1:
            return follow(value)
        if numbers[0] != value:
            changes[key] = (value, numbers[0])
        return numbers[0]

    def follow(part: Any) -> Any:
        if isinstance(part, list):
            return [follow(one) for one in part]
        if isinstance(part, dict) and part.get("filename", files[0]) != files[0]:
            return part  # what another model has
        return {key: entry(key, value) for key, value in part.items()} if isinstance(part, dict) else part

    text = json.dumps(follow(data), indent=2, ensure_ascii=False) + "\n"
    return Corrected(name, text, changes, left)


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _new_id(value: Any, new_ids: Mapping[int, int]) -> Any:
    return new_ids.get(value, value) if isinstance(value, int) else value


def _numbers(value: Any, old: Mapping[str, int], new: Mapping[str, int]) -> list[int]:
    """What a size of the original has become, wherever the graph has it; none where it is not found."""
    return sorted({new[name] for name, number in old.items() if number == value and name in new})


def _cache_numbers(graph: Graph) -> list[int]:
    """The numbers of the layers that have a cache among the inputs, by its name, ascending; shapes are known."""
    names = [value.name for value in graph.main.inputs if value is not None and value.rank == 4]
    return sorted({int(found.group()) for name in names if (found := re.search(r"\d+", name))})


def _sizes(graph: Graph) -> Sizes:
    """The sizes of a decoder that its graph shows."""
    infer(graph)
    found: Sizes = {kind: {} for kind in KEYS}
    for value in graph.main.inputs:
        if value is not None and value.rank == 4 and value.elem_type != onnx.TensorProto.BOOL:
            _put(found["keys"], value, 1)
            _put(found["size"], value, 3)
    try:
        vocabulary = find_vocabulary(graph)
    except InputError:
        return found
    found["words"]["ids"] = vocabulary.size
    for table in (t for lookup in vocabulary.lookups for t in [lookup.table, *_tables_behind(lookup.node)]):
        if table.rank == 2:  # the other is a map of ids
            _put(found["width"], table, 1)
    returned = {value.name for value in graph.main.outputs if value is not None}
    for node in graph.main.nodes:
        found["queries"].update(_query_heads(node))
        found["inner"].update(_layer_width(node, returned))
    width = set(found["width"].values())
    found["inner"] = {name: number for name, number in found["inner"].items() if number not in width}
    return found


def _tables_behind(node: Node) -> Iterator[Value]:
    """The tables that what a node looks up is looked up in: those of words, behind a map of their ids."""
    for reader, at in node.output().consumers:
        for table, ids in operator_of(reader).lookups:
            if ids == at and reader.has(table):
                yield reader.input(table)


def _put(sizes: dict[str, int], value: Value, axis: int) -> None:
    length = value.axis(axis).length
    if length is not None:
        sizes[value.key] = length


def _query_heads(node: Node) -> Iterator[tuple[str, int]]:
    """Heads of fused attention, or the batch of a product of two activations, by the value that is made."""
    out = node.outputs[0] if node.outputs else None
    if out is None:
        return
    heads = node.attribute("num_heads") or node.attribute("q_num_heads")
    if heads and operator_of(node).macs is not None:
        yield out.key, int(heads)
    elif operator_of(node).macs is not None and out.rank == 4 and not _weights(node):
        length = out.axis(1).length
        if length is not None:
            yield out.key, length


def _layer_width(node: Node, returned: set[str]) -> Iterator[tuple[str, int]]:
    """Features that a product with a weight makes inside of the model."""
    out = node.outputs[0] if node.outputs else None
    if (
        out is not None
        and operator_of(node).macs is not None
        and _weights(node)
        and out.name not in returned
        and out.rank
    ):
        length = out.axis(-1).length
        if length is not None:
            yield out.key, length


def _weights(node: Node) -> list[Value]:
    return [v for v in node.inputs if v is not None and v.tensor is not None and (v.rank or 0) >= 2]
