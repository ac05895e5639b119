"""Broken inputs for the command line, each generated from a seed."""

from __future__ import annotations

import copy
import io
import json
import random
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

import onnxprune
from tests.support.commands import tiny
from tests.support.fuzzing_values import NUMBERS, OPTIONS, REALS, TEXTS, VALUES, VERBS
from tests.support.graph_builder import Seeded
from tests.support.random_graphs import random_model

KINDS = ("bytes", "proto", "plan", "stats", "recipe", "options")


@dataclass
class Seed:
    """A valid set of files: a model, a plan of it, statistics of calibration data, and the data."""

    model: bytes
    plan: str
    stats: bytes
    data: bytes


def seeds(count: int = 12) -> list[Seed]:
    """Valid sets of files of small models."""
    found = []
    for number in range(count):
        model = tiny() if number == 0 else random_model(Seeded(number), 3 + number % 6)
        feeds = {
            i.name: np.random.default_rng(number)
            .normal(size=[d.dim_value or 2 for d in i.type.tensor_type.shape.dim])
            .astype(np.float32)
            for i in model.graph.input
        }
        data = io.BytesIO()
        np.savez(data, **{k: np.concatenate([v] * 4) for k, v in feeds.items()})
        found.append(
            Seed(
                model.SerializeToString(),
                onnxprune.prune(model, 0.5, repair="none", verify=False).plan.to_json(),
                _stats(model, feeds),
                data.getvalue(),
            )
        )
    return found


def _stats(model: onnx.ModelProto, feeds: dict[str, Any]) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "stats.npz")
        try:
            onnxprune.prune(model, 0.5, repair="none", verify=False, calib=[feeds] * 3, stats=path)
        except onnxprune.OnnxPruneError:
            return b"no statistics"
        return path.read_bytes() if path.exists() else b"no statistics"


@dataclass
class Case:
    """A command line in a folder of its own.

    Attributes:
        kind: What was broken.
        arguments: The command line.
        ended: How it ended.
    """

    kind: str
    arguments: list[str]
    ended: int | None = None

    @classmethod
    def of(cls, number: int, originals: list[Seed], folder: Path, only: str | None = None) -> Case:
        """Writes the files of a case."""
        rng = random.Random(number)
        kind = only or rng.choices(KINDS, [4, 5, 3, 2, 2, 4])[0]
        seed = rng.choice(originals)
        files: dict[str, bytes] = {
            "net.onnx": seed.model,
            "plan.json": seed.plan.encode(),
            "stats.npz": seed.stats,
            "data.npz": seed.data,
            "r.toml": b"ratio = 0.5\n",
        }
        checked = rng.choice([["--no-verify"], ["--no-verify"], []])
        ways = [*[["--repair", "none"]] * 8, [], ["--calib", "data.npz"]]
        arguments = ["net.onnx", "--ratio", "0.5", *checked, *rng.choice(ways)]
        if kind == "bytes":
            files["net.onnx"] = mutated_bytes(seed.model, rng, originals)
        elif kind == "proto":
            files["net.onnx"] = mutated_model(seed.model, rng)
        elif kind == "plan":
            files["plan.json"] = mutated_json(seed.plan, rng)
        elif kind == "stats":
            files["stats.npz"] = mutated_archive(seed.stats, rng, originals)
            arguments = ["net.onnx", "--ratio", "0.5", "--stats", "stats.npz", *checked, "--repair", "none"]
        elif kind == "recipe":
            files["r.toml"] = recipe(rng)
            arguments = ["net.onnx", "--recipe", "r.toml", *checked]
        if kind == "plan" or (kind in ("bytes", "proto") and rng.random() < 0.3):
            arguments = rng.choice(
                [["apply", "plan.json", "net.onnx", *checked]]
                if kind == "plan"
                else [
                    ["inspect", "net.onnx"],
                    ["apply", "plan.json", "net.onnx", *checked],
                    ["compare", "net.onnx", "net.onnx", "--runs", "1"],
                ]
            )
        elif kind == "options":
            arguments = options(rng)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return cls(kind, arguments)


def options(rng: random.Random) -> list[str]:
    """A command line of options with values that fit and values that do not."""
    if rng.random() < 0.2:
        start = list(rng.choice(VERBS))
    else:
        start = [rng.choice(["net.onnx", "net.onnx", "net.onnx", "none.onnx", "plan.json", ".", ""]), "--ratio", "0.5"]
        start += ["--repair", "none"] if rng.random() < 0.8 else []  # the last one of an option counts; repair is slow
    for name in rng.sample(list(OPTIONS), rng.randint(1, 4)):
        values = OPTIONS[name]
        start += [name] if values is None else [name, rng.choice(values)]
    return start


def recipe(rng: random.Random) -> bytes:
    """A recipe, right, odd, or not even TOML."""
    lines = ['repair = "none"'] if rng.random() < 0.8 else []
    for name, values in rng.sample(list(OPTIONS.items()), rng.randint(1, 5)):
        value: Any = rng.choice(values) if values else rng.choice(["true", "false", "1"])
        value = rng.choice(
            [
                value,
                json.dumps(str(value)),
                json.dumps(str(value)),
                f"[{json.dumps(str(value))}]",
                rng.choice(["{}", "[[]]", "1e400", "nan", "-0", "1979-05-27", "{a = 1}", '"""', "9" * 40]),
            ]
        )
        lines.append(f"{name.lstrip('-')} = {value}")
    text = "\n".join(lines).encode()
    return text if rng.random() < 0.8 else scrambled(text, rng)


def scrambled(content: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, cut out, doubled or put in."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at = rng.randrange(len(data) + 1)
        length = rng.choice([1, 1, 2, 8, 64, 1024])
        what = rng.randrange(5)
        if what == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif what == 1:
            del data[at : at + length]
        elif what == 2:
            data[at:at] = data[at : at + length]
        elif what == 3:
            data[at : at + length] = rng.randbytes(length)
        else:
            data[at:at] = rng.choice([b"\x00", b"\xff" * 8, b"\x80" * 10 + b"\x01", b"\x0a\xff\xff\xff\xff\x07"])
    return bytes(data)


def mutated_bytes(content: bytes, rng: random.Random, originals: list[Seed]) -> bytes:
    """A model of which bytes were changed, lost, or come from another one."""
    what = rng.randrange(6)
    if what == 0:
        return content[: rng.randrange(len(content))]
    if what == 1:
        other = rng.choice(originals).model
        return content[: rng.randrange(len(content))] + other[rng.randrange(len(other)) :]
    if what == 2:
        return content + rng.choice(originals).model  # messages that follow each other merge
    return scrambled(content, rng)


def messages(message: Message) -> Iterator[Message]:
    """A message and all within it."""
    yield message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for one in value if field.is_repeated else [value]:
                yield from messages(one)


def mutated_model(content: bytes, rng: random.Random) -> bytes:
    """A model of which fields were changed, each to something of its type."""
    model = onnx.ModelProto.FromString(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        _mutate(rng.choice(list(messages(model))), model, rng)
    return model.SerializeToString()


def _mutate(message: Message, whole: onnx.ModelProto, rng: random.Random) -> None:
    field = rng.choice(message.DESCRIPTOR.fields)
    value = getattr(message, field.name)
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        others = [m for m in messages(whole) if m.DESCRIPTOR is field.message_type]
        if not field.is_repeated:
            if rng.random() < 0.3 or not others:
                message.ClearField(field.name)
            else:
                value.CopyFrom(copy.deepcopy(rng.choice(others)))
            return
        what = rng.randrange(4)
        if what == 0 and len(value):
            del value[rng.randrange(len(value))]
        elif what == 1 and len(value) > 1:
            items = [copy.deepcopy(v) for v in value]
            rng.shuffle(items)
            del value[:]
            value.extend(items)
        elif what == 2 and others:
            value.append(copy.deepcopy(rng.choice(others)))
        else:
            value.add()
        return
    new = _scalar(field, whole, rng)
    if not field.is_repeated:
        if rng.random() < 0.15:
            message.ClearField(field.name)
        else:
            setattr(message, field.name, new)
    elif len(value) and rng.random() < 0.7:
        i = rng.randrange(len(value))
        if rng.random() < 0.3:
            del value[i]
        else:
            value[i] = new
    else:
        value.append(new)


def _scalar(field: FieldDescriptor, whole: onnx.ModelProto, rng: random.Random) -> Any:
    kind = field.cpp_type
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return rng.choice(REALS)
    if kind == FieldDescriptor.CPPTYPE_STRING:
        names = [v for n in whole.graph.node for v in (*n.input, *n.output, n.op_type)]
        text = rng.choice([*TEXTS, *names]) if names else rng.choice(TEXTS)
        return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return rng.choice([v.number for v in field.enum_type.values])
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return rng.random() < 0.5
    low, high = {
        FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
        FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
        FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    }.get(kind, (-(2**63), 2**63 - 1))
    return min(max(rng.choice([*NUMBERS, *range(20)]), low), high)


def mutated_json(text: str, rng: random.Random) -> bytes:
    """A plan of which values were replaced, lost or renamed, or bytes changed."""
    if rng.random() < 0.2:
        return scrambled(text.encode(), rng)
    data = json.loads(text)
    for _ in range(rng.choice([1, 1, 2, 3])):
        places = list(_places(data))
        holder, key = rng.choice(places)
        what = rng.randrange(4)
        if what == 0:
            del holder[key]
        elif what == 1 and isinstance(holder, dict):
            holder[rng.choice([*TEXTS, *list(holder)])] = holder.pop(key)
        elif what == 2 and isinstance(holder[key], int) and not isinstance(holder[key], bool):
            holder[key] = rng.choice(NUMBERS)
        else:
            holder[key] = copy.deepcopy(
                rng.choice([*VALUES, holder[rng.choice([k for h, k in places if h is holder])]])
            )
    return json.dumps(data).encode()


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(data) if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ():
        yield data, key
        yield from _places(data[key])


def mutated_archive(content: bytes, rng: random.Random, originals: list[Seed]) -> bytes:
    """Statistics of which arrays were changed, lost or come from another model, or bytes changed."""
    if rng.random() < 0.4 or not zipfile.is_zipfile(io.BytesIO(content)):
        return scrambled(content, rng)
    if rng.random() < 0.2:
        return rng.choice(originals).stats
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    name = rng.choice(list(arrays))
    array = arrays[name]
    what = rng.randrange(6)
    if what == 0:
        del arrays[name]
    elif what == 1:
        arrays[name] = array.reshape(-1)[: rng.randrange(array.size + 1)]
    elif what == 2:
        arrays[name] = np.full_like(array, rng.choice([0, 1]))
    elif what == 3:
        arrays[name] = array.astype(rng.choice(["U8", "f2", "i1", "c16", "?"]))
    elif what == 4:
        arrays[name] = array[None]
    else:
        arrays[rng.choice(TEXTS[1:6])] = array
    changed = io.BytesIO()
    np.savez(changed, **arrays)
    return changed.getvalue()
