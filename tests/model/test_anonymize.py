"""An anonymised model tells how a model is built, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import InputError
from onnxprune.model.anonymize import anonymised
from onnxprune.model.model import Model, load
from onnxprune.model.tensors import tensors
from tests.ops.case import build
from tests.support.commands import Cli, assert_refused, contents
from tests.support.paths import MODELS

MODELS = sorted(MODELS.glob("*.onnx"))
SECRET = re.compile(rb"(?i)secret")


def secretive() -> onnx.ModelProto:
    """A model with a secret in every string that is not defined by ONNX, and secret weights."""
    proto = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 18, "secret.domain" : 1, "ai.onnx.ml" : 3]>
        secret_graph (float[secret_batch, 8] secret_in) => (float[secret_batch, secret_n] secret_out)
        {
            a = MatMul (secret_in, secret_w1)
            b = secret.domain.SecretBlock (a)
            k = Constant <value_string = "secret"> ()
            t = Constant <value_strings = ["secret", "b"]> ()
            c = MatMul (b, secret_w2)
            secret_out, z = If (secret_flag) <
                then_branch = secret_then () => (float[secret_m, 4] secret_y, float[1] q)
                    { secret_y = Relu (c) q = Constant <value = float[1] {1.5}> () },
                else_branch = secret_else () => (float[secret_m, 4] secret_x, float[1] r)
                    { secret_x = Identity (c) r = Constant <value = float[1] {2.5}> () }
            >
        }
        <domain: "secret.domain", opset_import: ["" : 18]>
        SecretBlock (secret_a) => (secret_b) { secret_b = Relu (secret_a) }
    """)
    graph = proto.graph
    rng = np.random.default_rng(0)
    for name, shape in (("secret_w1", (8, 16)), ("secret_w2", (16, 4))):
        graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype("f"), name))
    graph.initializer.append(numpy_helper.from_array(np.array(True), "secret_flag"))
    graph.initializer.append(helper.make_tensor("secret_words", TensorProto.STRING, [2], [b"secret", b"b"]))
    graph.node.append(
        helper.make_node(
            "LabelEncoder",
            ["secret_words"],
            ["secret_labels"],
            name="secret",
            domain="ai.onnx.ml",
            keys_strings=["secret"],
            values_floats=[0.123],
            default_float=0.5,
        )
    )
    annotation = graph.quantization_annotation.add(tensor_name="a")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="secret_w1")
    graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["secret_batch", 16]))
    proto.domain, proto.producer_name = "secret", "pytorch"
    for message in (proto, graph, graph.node[0], graph.input[0], graph.initializer[0], proto.functions[0]):
        message.doc_string = "secret"
        message.metadata_props.add(key="secret", value="secret")
        message.MergeFromString(b"\xba\x3e\x06secret")  # a field that nobody knows yet
    graph.input[0].type.denotation = "SECRET"
    return proto


def shown(cli: Cli, path: Path, *options: str) -> list[Any]:
    """The groups that `inspect` shows for a model, without names and reasons."""
    data = json.loads(cli("inspect", path, "--json", *options).out)
    return [
        data["channels"],
        [
            [
                g["channels"],
                g["grade"],
                len(g["pinned"]),
                [[m["axis"], m["shape"], m["indices_per_channel"]] for m in g["members"]],
            ]
            for g in data["groups"]
        ],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_inspect_sees_the_same(cli: Cli, tmp_path: Path, path: Path) -> None:
    """The groups of the anonymised model are those of the model."""
    small = tmp_path / "small.onnx"
    assert cli("inspect", "--anonymise", path, "-o", small).out == f"wrote {small}: no weights, no names\n"
    assert shown(cli, small) == shown(cli, path)
    assert shown(cli, small, "--mixing") == shown(cli, path, "--mixing")
    weights = sum(t.ByteSize() for t in onnx.load(path).graph.initializer)
    assert small.stat().st_size < path.stat().st_size - 0.9 * weights


def test_inspect_sees_the_same_of_sparse_weights_and_functions(cli: Cli, tmp_path: Path) -> None:
    """Also on the page; only what is about the weights themselves is refused."""
    proto = build("(float[N,8] x) => (float[N,4] y) { a = MatMul(x, w1)  b = my.F(a)  y = MatMul(b, w2) }")
    rng = np.random.default_rng(0)
    values = numpy_helper.from_array(rng.standard_normal(40).astype(np.float32), "w1")
    indices = numpy_helper.from_array(np.sort(rng.permutation(128)[:40]), "")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [8, 16]))
    proto.graph.initializer.append(numpy_helper.from_array(rng.standard_normal((16, 4)).astype(np.float32), "w2"))
    opsets = [helper.make_opsetid("", 18)]
    proto.functions.append(
        helper.make_function("my", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], opsets)
    )
    proto.opset_import.append(helper.make_opsetid("my", 1))
    path, small = tmp_path / "net.onnx", tmp_path / "small.onnx"
    onnx.save(proto, path)
    assert cli("inspect", "--anonymise", path, "-o", small).code == 0
    assert shown(cli, small) == shown(cli, path)
    assert cli("inspect", small, "--html", tmp_path / "page.html").code == 0
    assert "shows the groups of such a model" in assert_refused(cli("inspect", small, "--sparsity"))


def test_names_texts_and_weights_are_removed(tmp_path: Path) -> None:
    """No name, text or weight is kept; operators and shapes are."""
    proto = secretive()
    made = anonymised(load(proto))
    assert SECRET.search(proto.SerializeToString())
    assert not SECRET.search(made.SerializeToString())
    assert [n.op_type for n in made.graph.node if n.domain != "domain0"][:1] == ["MatMul"]
    assert sorted(n.op_type for n in made.graph.node if n.op_type in {n.op_type for n in proto.graph.node}) == sorted(
        n.op_type for n in proto.graph.node if n.op_type != "SecretBlock"
    )
    for old, new in zip(tensors(proto), tensors(made), strict=True):
        assert (old.dims, old.data_type) == (new.dims, new.data_type)
        assert not (old.raw_data and new.raw_data) or np.prod(old.dims, dtype=int) <= 4
    assert made.producer_name == "pytorch"
    assert load(made, weights=False).proto == made


def test_equal_names_are_replaced_by_equal_names() -> None:
    """Connections are kept, also in subgraphs and functions."""
    old, new = secretive(), anonymised(load(secretive()))

    def uses(proto: onnx.ModelProto) -> list[list[int]]:
        names: dict[str, int] = {}
        nodes = [
            *proto.graph.node,
            *(n for a in proto.graph.node[5].attribute for n in a.g.node),
            *proto.functions[0].node,
        ]
        return [[names.setdefault(name, len(names)) for name in [*n.input, *n.output]] for n in nodes]

    assert uses(old) == uses(new)
    call = new.graph.node[1]
    assert (call.domain, call.op_type) == (new.functions[0].domain, new.functions[0].name)
    assert call.domain in {o.domain for o in new.opset_import}
    batch = [v.type.tensor_type.shape.dim[0].dim_param for v in (*new.graph.input[:1], *new.graph.output)]
    assert batch[0] == batch[1] != ""


def test_an_anonymised_model_cannot_be_pruned(cli: Cli, model: Path) -> None:
    """An anonymised model can only be inspected."""
    assert cli("inspect", model, "--anonymise").code == 0
    small = model.parent / "net.anonymous.onnx"
    assert "was left out" in assert_refused(cli(small, "--ratio", 0.5))
    assert sorted(contents(model.parent)) == ["net.anonymous.onnx", "net.onnx"]
    assert "--anonymise" in assert_refused(cli("inspect", model, "-o", model.parent / "x.onnx"))
    assert "is the input" in assert_refused(cli("inspect", "--anonymise", model, "-o", model))


def test_dimensions_of_stripped_tensors_are_bounded() -> None:
    """The axes of stripped weights have no data to check them against."""
    made = anonymised(load(secretive()))
    made.graph.initializer[0].dims[1] = 2**40
    with pytest.raises(InputError, match="too many indices"):
        load(made, weights=False)


def test_sparse_constants_and_overloads_stay(tmp_path: Path) -> None:
    """What is written is a model that can be inspected."""
    proto = build("(float[N,4] x) => (float[N,2] y) { y = MatMul(x, w) }")
    values = numpy_helper.from_array(np.array([1.0, 2.0], np.float32), "values")
    indices = numpy_helper.from_array(np.array([1, 6]), "indices")
    sparse = helper.make_sparse_tensor(values, indices, [4, 2])
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=sparse))
    opsets = [helper.make_opsetid("", 18)]
    for overload in ("one", "two"):
        function = helper.make_function("mine", "f", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], opsets)
        function.overload = overload
        proto.functions.append(function)
    copy = anonymised(Model(proto))
    (constant,) = (n for n in copy.graph.node if n.op_type == "Constant")
    assert list(constant.attribute[0].sparse_tensor.dims) == [4, 2]
    assert len({(f.name, f.overload) for f in copy.functions}) == 2


@pytest.mark.parametrize("option", [["--json"], ["--sparsity"], ["--html", "page.html"], ["--graph", "groups.svg"]])
def test_nothing_else_is_asked_of_an_anonymising_run(cli: Cli, tmp_path: Path, option: list[str]) -> None:
    path, small = tmp_path / "net.onnx", tmp_path / "small.onnx"
    onnx.save(secretive(), path)
    files = [tmp_path / name if "." in name else name for name in option]
    assert option[0] in assert_refused(cli("inspect", path, "--anonymise", "-o", small, *files))
    assert not small.exists()
