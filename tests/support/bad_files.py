"""A folder with every kind of file that is refused, for the tests of error lines."""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.support.commands import tiny
from tools.decoder_graph import Shape, decoder, random_weights

Change = Callable[[ModelProto], Any]


def dense() -> ModelProto:
    """Two matrix products."""
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 8] x) => (float[1, 8] y) { h = MatMul (x, w1) y = MatMul (h, w2) }
    """)
    for name in ("w1", "w2"):
        proto.graph.initializer.append(numpy_helper.from_array(np.eye(8, dtype="f"), name))
    return proto


def stored(proto: ModelProto, *, location: str = "w.bin", offset: str = "0", length: str = "256") -> None:
    """Makes the first weight a reference to external data."""
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)


def typed(proto: ModelProto) -> None:
    """Gives the first weight three values where it needs 64."""
    proto.graph.initializer[0].ClearField("raw_data")
    proto.graph.initializer[0].float_data.extend([1.0] * 3)


def calls(*bodies: tuple[str, Sequence[str]]) -> ModelProto:
    """A model of local functions: each a name and the functions that it calls one after the other."""
    proto = dense()
    proto.opset_import.add(domain="f", version=1)
    for name, called in bodies:
        nodes = [
            helper.make_node(one, [f"t{i}"], [f"t{i + 1}"], domain="f" if one.startswith("F") else "")
            for i, one in enumerate(called)
        ]
        proto.functions.append(
            helper.make_function(
                "f",
                name,
                ["t0"],
                [f"t{len(called)}"],
                nodes,
                [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)],
            )
        )
    proto.graph.node[0].CopyFrom(helper.make_node(bodies[-1][0], ["x"], ["h"], domain="f"))
    return proto


def nested(levels: int) -> bytes:
    """A graph in a node in a graph, and so on, as protobuf writes it."""
    inner = b""
    for _ in range(levels):
        for field in (6, 5, 1):  # the graph of an attribute, the attribute of a node, the node of a graph
            inner = bytes([field << 3 | 2]) + varint(len(inner)) + inner
    return b"\x08\x08" + b"\x3a" + varint(len(inner)) + inner


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


HOSTILE: dict[str, Change] = {
    "negative.onnx": lambda m: m.graph.initializer[0].dims.__setitem__(0, -8),
    "overflow.onnx": lambda m: m.graph.initializer[0].dims.__setitem__(slice(None), [2**40, 2**40]),
    "absurd.onnx": lambda m: m.graph.initializer[0].dims.__setitem__(0, 2**40),
    "mismatch.onnx": lambda m: m.graph.initializer[0].dims.__setitem__(1, 9),
    "typed.onnx": typed,
    "type.onnx": lambda m: setattr(m.graph.initializer[0], "data_type", 999),
    "dangling.onnx": lambda m: m.graph.node[1].input.__setitem__(0, "nowhere"),
    "no_output.onnx": lambda m: setattr(m.graph.output[0], "name", "nowhere"),
    "cycle.onnx": lambda m: m.graph.node[0].input.__setitem__(0, "y"),
    "itself.onnx": lambda m: m.graph.node[0].input.__setitem__(0, "h"),
    "two_makers.onnx": lambda m: m.graph.node[1].output.__setitem__(0, "h"),
    "two_weights.onnx": lambda m: setattr(m.graph.initializer[1], "name", "w1"),
    "two_inputs.onnx": lambda m: m.graph.input.append(m.graph.input[0]),
    "no_operator.onnx": lambda m: setattr(m.graph.node[0], "op_type", ""),
    "no_tensor.onnx": lambda m: m.graph.node[0].attribute.add(name="value", type=AttributeProto.TENSOR),
    "parameter.onnx": lambda m: m.graph.node[0].attribute.add(name="value", type=AttributeProto.INT, ref_attr_name="v"),
    "parent.onnx": lambda m: stored(m, location="../w.bin"),
    "absolute.onnx": lambda m: stored(m, location="/etc/passwd"),
    "backslash.onnx": lambda m: stored(m, location="..\\w.bin"),
    "link.onnx": lambda m: stored(m, location="link.bin"),
    "loop.onnx": lambda m: stored(m, location="loop.bin"),
    "pipe.onnx": lambda m: stored(m, location="pipe.bin"),
    "folder.onnx": lambda m: stored(m, location="folder"),
    "missing.onnx": lambda m: stored(m, location="missing.bin"),
    "zero_byte.onnx": lambda m: stored(m, location="a\0b"),
    "long_place.onnx": lambda m: stored(m, location="x" * 5000),
    "beyond.onnx": lambda m: stored(m, offset="128"),
    "far_beyond.onnx": lambda m: stored(m, offset=str(2**62)),
    "before.onnx": lambda m: stored(m, offset="-64"),
    "length.onnx": lambda m: stored(m, length="255"),
    "number.onnx": lambda m: stored(m, offset="1e3"),
    "digits.onnx": lambda m: stored(m, offset="9" * 5000),
    "sparse.onnx": lambda m: m.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            numpy_helper.from_array(np.ones(2, "f"), "s"), numpy_helper.from_array(np.array([1, 5])), [2**40, 2**40]
        )
    ),
    "left_out.onnx": lambda m: stored(m, location="*stripped*"),
}
"""What is wrong with a model that is right otherwise."""

PLANS: dict[str, dict[str, Any]] = {
    "part.json": {"removed": {"w1": {"0": [0]}}},
    "pinned.json": {"removed": {"w2": {"0": [0]}}},
    "index.json": {"removed": {"w1": {"0": [32]}}},
    "axis.json": {"removed": {"w1": {"4": [0]}}},
    "unknown.json": {"removed": {"w9": {"0": [0]}}},
    "kind.json": {"removed": {"w1": [1]}},
    "all.json": {"removed": {"w1": {"0": [*range(32)]}, "b1": {"0": [*range(32)]}, "w2": {"1": [*range(32)]}}},
    "keys.json": {"extra": 1},
    "list.json": {"removed": []},
    "blocks.json": {"blocks": {"w1": []}},
    "mask.json": {"zeroed": {"w1": {"mask": "!!", "ratio": 0.5}}},
    "bomb.json": {"zeroed": {"w1": {"ratio": 0.5, "mask": base64.b64encode(zlib.compress(bytes(10**7))).decode()}}},
}

RECIPES = {
    "key.toml": "ratoi = 0.5\n",
    "value.toml": 'ratio = "half"\n',
    "syntax.toml": "ratio = \n",
    "twice.toml": "min-channels = 1\nmin_channels = 2\n",
    "code.toml": 'ratio = 0.5\ncalib = "os:getcwd"\n',
}


def make(folder: Path, plan: dict[str, Any]) -> None:
    """Fills a folder; the plan is one of `tiny` as it should be."""
    onnx.save(tiny(), folder / "good.onnx")
    whole = (folder / "good.onnx").read_bytes()
    shape = Shape(layers=1)
    onnx.save(decoder(shape, random_weights(shape), "plain"), folder / "words.onnx")
    for name, ids in {"ids.txt": "0\n7\n", "far.txt": "0\n99\n", "no-ids.txt": "cat\n", "nothing.txt": ""}.items():
        (folder / name).write_text(ids)
    other = tiny()
    other.graph.node[1].op_type = "Sigmoid"
    onnx.save(other, folder / "other.onnx")
    onnx.save(other, folder / "other.pruned.onnx")
    pairs = tiny()
    pairs.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(pairs, folder / "pairs.onnx")
    (folder / "folder").mkdir()
    (folder / "w.bin").write_bytes(bytes(256))
    (folder / "link.bin").symlink_to("/etc/passwd")
    (folder / "loop.bin").symlink_to("loop.bin")
    os.mkfifo(folder / "pipe.bin")
    for name, change in HOSTILE.items():
        proto = dense()
        change(proto)
        (folder / name).write_bytes(proto.SerializeToString())
    for name, content in {
        "empty.onnx": b"",
        "text.onnx": b"no model\n" * 9,
        "torch.pt": b"PK\x03\x04" + b"\xff" * 99,
        "cut.onnx": whole[:-99],
        "nested.onnx": nested(2000),
        "lfs.onnx": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        "ort.onnx": b"\x24\0\0\0ORTM" + b"\xff" * 40,
        "graph.onnx": ModelProto(ir_version=8).SerializeToString(),
        "utf8.onnx": dense().SerializeToString().replace(b"w2", b"\xff\xfe"),
        "recursion.onnx": calls(("F0", ["F0"])).SerializeToString(),
        "unfold.onnx": calls(
            ("F0", ["Relu"]), *((f"F{i}", [f"F{i - 1}"] * 2) for i in range(1, 40))
        ).SerializeToString(),
        "nodes.onnx": ModelProto(ir_version=8, graph=GraphProto(node=[NodeProto()] * 9)).SerializeToString(),
        "binary.json": b"\xff\xfe",
        "text.json": b"no plan",
        "deep.json": b"[" * 99_999,
        "array.json": b"[1]",
        "later.json": json.dumps({**plan, "version": 9}).encode(),
        "good.json": json.dumps(plan).encode(),
    }.items():
        (folder / name).write_bytes(content)
    for name, change_of_plan in PLANS.items():
        (folder / name).write_text(json.dumps({**plan, **change_of_plan}))
    for name, text in RECIPES.items():
        (folder / name).write_text(text)
    data(folder)


def data(folder: Path) -> None:
    """Calibration data that do not fit, and statistics that are none."""
    x = np.zeros((4, 3, 16, 16), np.float32)
    for name, arrays in {
        "name": {"z": x},
        "shape": {"x": x[:, :2]},
        "words": {"x": np.array(["a"] * 4)},
        "none_in": {"x": x[:0]},
        "objects": {"x": np.array([{}, {}], dtype=object)},
        "few": {"x": x[:1]},
        "labelled": {"x": np.tile(x, (16, 1, 1, 1)), "labels": np.arange(64)},
    }.items():
        np.savez(folder / f"{name}.npz", **arrays)
    (folder / "damaged.npz").write_bytes(b"PK\x03\x04 and no more")
    (folder / "nothing").mkdir()
    (folder / "both").mkdir()
    np.save(folder / "both" / "a.npy", x[0])
    (folder / "both" / "a.png").write_bytes(b"no picture")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_bytes(b"no picture")
    (folder / "broken_module.py").write_text(
        "def call():\n    raise KeyError('inside')\n\n\ndef number():\n    return 3\n"
    )
