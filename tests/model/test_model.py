"""Loading, patching and saving: what comes in comes out, and bad files are told in one line."""

import os
import tracemalloc

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from onnxprune.errors import InputError, ModelError, OutputError
from onnxprune.model import model as model_module
from onnxprune.model.model import Model, constants, load, qualified, save, skeleton
from onnxprune.model.skeleton import serialized_size
from onnxprune.model.tensors import encode, is_external, tensors
from tests.support.commands import contents

UNKNOWN_FIELD = b"\xba\x3e\x03abc"  # field 999, three bytes
KINDS = sorted(set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED, TensorProto.STRING})


def network(width=32, layers=3):
    """A chain of matrix products with weights of width * width * 4 bytes."""
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.standard_normal((width, width), "f"), f"w{i}") for i in range(layers)]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(layers)]
    ends = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, ["N", width]) for i in (0, layers)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def decorated():
    """A model with something in every corner that a copy could lose."""
    proto = network()
    graph = proto.graph
    proto.metadata_props.add(key="author", value="somebody")
    proto.doc_string = "about the model"
    proto.training_info.add().initialization.node.append(helper.make_node("Constant", [], ["c"], value_float=1.0))
    proto.opset_import.add(domain="custom.domain", version=7)
    body = [helper.make_node("Relu", ["a"], ["b"])]
    proto.functions.append(
        helper.make_function("local", "Act", ["a"], ["b"], body, [helper.make_opsetid("", 17)], doc_string="f")
    )
    graph.node[0].doc_string = "about the node"
    graph.initializer[0].doc_string = "about the weight"
    graph.initializer[1].external_data.add(key="note", value="kept though the data is inline")
    annotation = graph.quantization_annotation.add(tensor_name="x1")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    values = numpy_helper.from_array(np.ones(2, "f"), "sparse")
    places = numpy_helper.from_array(np.array([1, 5]))
    graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [9]))
    graph.initializer.append(helper.make_tensor("typed", TensorProto.FLOAT, [600], np.arange(600.0)))
    graph.initializer.append(helper.make_tensor("words", TensorProto.STRING, [2], [b"a", b"\xff"]))
    for message in (proto, graph, graph.node[0], graph.initializer[0]):
        message.MergeFromString(UNKNOWN_FIELD)
    return proto


def write_external(folder, proto=None, name="model.onnx", data="weights.bin"):
    path = folder / name
    onnx.save(proto or network(), path, save_as_external_data=True, location=data, size_threshold=0)
    return path


def values(model):
    return {name: model.array(t) for _, name, t in constants(model.proto)}


def data_of(path):
    """The one data file that a saved model refers to."""
    (location,) = {
        e.value
        for t in tensors(onnx.load(path, load_external_data=False))
        if is_external(t)
        for e in t.external_data
        if e.key == "location"
    }
    return path.with_name(location)


def files_in(folder):
    return sorted(p.name for p in folder.iterdir())


# --- loading


def test_a_proto_is_copied():
    proto = network()
    model = load(proto)
    model.set_array(model.proto.graph.initializer[0], np.zeros((2, 2), "f"))
    assert list(proto.graph.initializer[0].dims) == [32, 32]


@pytest.mark.parametrize("as_text", [True, False])
def test_a_path_may_be_a_string(tmp_path, as_text):
    path = tmp_path / "m.onnx"
    onnx.save(network(), path)
    model = load(str(path) if as_text else path)
    assert model.proto == network()
    assert model.path == path


def test_a_missing_file_is_told_with_the_nearest_name(tmp_path):
    onnx.save(network(), tmp_path / "resnet18.onnx")
    with pytest.raises(InputError, match=r"resnet81\.onnx: no such file") as caught:
        load(tmp_path / "resnet81.onnx")
    assert "resnet18.onnx" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (b"", "no ir_version|cannot be parsed", ""),
        (b"just some text\n" * 9, "not an ONNX model", ""),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "not an ONNX model", "git lfs pull"),
        (b"\x24\0\0\0ORTM" + b"\xff" * 40, "not an ONNX model", "onnxruntime's own format"),
        (bytes(range(256)) * 4, "not an ONNX model", ""),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "no graph with nodes", ""),
        (onnx.ModelProto(graph=network().graph).SerializeToString(), "no ir_version", ""),
        (network().SerializeToString()[:-7], "cannot be parsed", "complete"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(tmp_path, content, message, hint):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert hint in (caught.value.hint or "")
    assert caught.value.exit_code == 2


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        load(tmp_path)


def test_missing_external_data_is_refused(tmp_path):
    path = write_external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(InputError, match=r"external data of 'w0' is missing: no file 'weights\.bin'"):
        load(path)


def test_short_external_data_is_refused(tmp_path):
    path = write_external(tmp_path)
    os.truncate(tmp_path / "weights.bin", 3 * 4096 - 1)
    with pytest.raises(InputError, match=r"'w2' ends at byte 12288, but weights\.bin has 12287 bytes"):
        load(path)


@pytest.mark.parametrize(("key", "value"), [("length", "4095"), ("length", "x"), ("offset", "-4"), ("offset", "1e3")])
def test_external_data_of_a_wrong_extent_is_refused(tmp_path, key, value):
    path = write_external(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    next(e for e in proto.graph.initializer[0].external_data if e.key == key).value = value
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match="external data of 'w0'"):
        load(path)


@pytest.mark.parametrize("form", ["absolute", "parent", "link", "empty"])
def test_external_data_outside_the_folder_is_refused(tmp_path, form):
    inner = tmp_path / "inner"
    inner.mkdir()
    path = write_external(inner)
    (inner / "weights.bin").rename(tmp_path / "weights.bin")
    location = {"absolute": str(tmp_path / "weights.bin"), "parent": "../weights.bin", "link": "link", "empty": ""}[
        form
    ]
    if form == "link":
        (inner / "link").symlink_to(tmp_path / "weights.bin")
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        next(e for e in tensor.external_data if e.key == "location").value = location
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match="outside the model's folder"):
        load(path)


def test_a_linked_model_finds_its_data_beside_the_link_target(tmp_path):
    blobs, shown = tmp_path / "blobs", tmp_path / "shown"
    blobs.mkdir()
    shown.mkdir()
    write_external(blobs)
    for name in ("model.onnx", "weights.bin"):
        (shown / name).symlink_to(f"../blobs/{name}")
    model = load(shown / "model.onnx")
    np.testing.assert_array_equal(values(model)["w1"], values(Model(network()))["w1"])


def test_a_proto_with_external_data_needs_a_path(tmp_path):
    proto = onnx.load(write_external(tmp_path), load_external_data=False)
    with pytest.raises(InputError, match="not given as a file"):
        load(proto)


# --- values


@pytest.mark.parametrize("kind", KINDS, ids=TensorProto.DataType.Name)
@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
def test_every_element_type_is_read_and_replaced(tmp_path, kind, external):
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    low, high = (1, 2) if TensorProto.DataType.Name(kind) == "FLOAT8E8M0" else (0, 1)  # a type of powers of two
    whole = np.array([[low, high, high], [high, low, high], [high, high, low]]).astype(dtype)
    proto = network()
    proto.graph.initializer.append(encode(whole, kind))
    tensor = proto.graph.initializer[-1]
    tensor.name, tensor.doc_string = "t", "about it"
    path = tmp_path / "m.onnx"
    if external:
        path = write_external(tmp_path, proto)
    else:
        onnx.save(proto, path)
    model = load(path)
    tensor = model.proto.graph.initializer[-1]
    assert is_external(tensor) == external
    np.testing.assert_array_equal(model.array(tensor), whole, strict=True)
    model.set_array(tensor, whole[1:])
    assert not is_external(tensor)
    assert not tensor.external_data
    assert (tensor.name, tensor.doc_string, tensor.data_type) == ("t", "about it", kind)
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), whole[1:], strict=True)


@pytest.mark.parametrize("kind", KINDS, ids=TensorProto.DataType.Name)
def test_typed_fields_give_way_to_new_values(kind):
    if kind in (getattr(TensorProto, k, -1) for k in ("FLOAT6E2M3", "FLOAT6E3M2")):
        pytest.skip("onnx's own make_tensor has no typed field for it")
    tensor = helper.make_tensor("t", kind, [4], np.array([0, 1, 1, 0]))
    model = Model(network())
    model.set_array(tensor, model.array(tensor)[1:2])
    assert list(tensor.dims) == [1]
    assert model.array(tensor).astype(np.complex64) == 1
    assert not any(len(getattr(tensor, f)) for f in ("float_data", "int32_data", "int64_data", "double_data"))


def test_strings_are_read_and_replaced():
    tensor = helper.make_tensor("t", TensorProto.STRING, [3], [b"a", b"b", b"c"])
    model = Model(network())
    model.set_array(tensor, model.array(tensor)[1:])
    assert list(tensor.string_data) == [b"b", b"c"]
    assert list(tensor.dims) == [2]


def test_values_are_converted_to_the_element_type():
    tensor = numpy_helper.from_array(np.ones(2, np.float16), "t")
    Model(network()).set_array(tensor, np.array([1.5, 2.5]))
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), np.array([1.5, 2.5], np.float16), strict=True)


def test_scalars_and_empty_tensors_survive(tmp_path):
    proto = network()
    for name, array in (("scalar", np.array(3.0, "f")), ("empty", np.zeros((0, 4), "f"))):
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    model = load(write_external(tmp_path, proto))
    found = values(model)
    assert found["scalar"].shape == () and found["scalar"] == 3
    assert found["empty"].shape == (0, 4)
    model.set_array(model.proto.graph.initializer[-2], np.array(4.0))
    assert list(model.proto.graph.initializer[-2].dims) == []


def test_data_that_disagrees_with_the_dimensions_is_told():
    proto = network()
    proto.graph.initializer[0].dims[0] = 31
    with pytest.raises(ModelError, match="tensor 'w0' has 4096 bytes of data; its type and dimensions ask for 3968"):
        load(proto)


# --- walking and copying


NESTED = """
<ir_version: 8, opset_import: ["" : 17]>
g (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
    k = Constant <value = float[2] {3, 4}> ()
    s = Constant <value_float = 1.0> ()
    y, z = If (c) <
        then_branch = t () => (float[2] a, float[2] b) {
            a = If (c) <
                then_branch = tt () => (float[2] d) <float[2] w = {5, 6}> { d = Add (x, w) },
                else_branch = te () => (float[2] e) { e = Identity (x) }
            >
            b = Constant <value = float[2] {7, 8}> ()
        },
        else_branch = f () => (float[2] p, float[2] q) { p = Identity (x) q = Identity (k) }
    >
}
"""


def test_constants_are_found_in_all_graphs_with_their_scope():
    found = {(scope, name): list(numpy_helper.to_array(t)) for scope, name, t in constants(parser.parse_model(NESTED))}
    assert found == {
        ("", "w"): [1, 2],
        ("", "k"): [3, 4],
        ("y/then_branch|a/then_branch", "w"): [5, 6],
        ("y/then_branch", "b"): [7, 8],
    }
    assert qualified("y/then_branch|a/then_branch", "w") == "y/then_branch|a/then_branch|w"
    assert qualified("", "w") == "w"


def test_every_tensor_is_walked_once():
    proto = decorated()
    names = [t.name for t in tensors(proto)]
    assert names == ["w0", "w1", "w2", "typed", "words", "sparse", ""]


def test_a_skeleton_lacks_big_values_and_nothing_else():
    proto = decorated()
    slim = skeleton(proto, limit=1024)
    assert slim.ByteSize() < 1024
    for a, b in zip(tensors(slim), tensors(proto), strict=True):
        big = b.name in ("w0", "w1", "w2", "typed")
        assert is_external(a) == big
        assert (a.name, a.dims, a.data_type, a.doc_string) == (b.name, b.dims, b.data_type, b.doc_string)
        if not big:
            assert a == b
    for message in (slim, slim.graph):
        for field in ("initializer", "graph"):
            if field in message.DESCRIPTOR.fields_by_name:
                message.ClearField(field)
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    bare.ClearField("graph")
    assert slim.SerializeToString() == bare.SerializeToString()


def test_a_skeleton_without_limit_is_the_model():
    proto = decorated()
    assert skeleton(proto, limit=2**40).SerializeToString() == proto.SerializeToString()
    nested = parser.parse_model(NESTED)
    assert skeleton(nested, limit=2**40).SerializeToString() == nested.SerializeToString()


@pytest.mark.parametrize("make", [network, decorated, lambda: parser.parse_model(NESTED)])
def test_the_size_is_told_without_serializing(make):
    proto = make()
    assert serialized_size(proto) == len(proto.SerializeToString())
    assert load(proto).nbytes == len(proto.SerializeToString())


def test_the_size_includes_external_data(tmp_path):
    path = write_external(tmp_path)
    assert load(path).nbytes == sum(p.stat().st_size for p in tmp_path.iterdir()) > 3 * 4096


def test_a_copy_is_independent(tmp_path):
    model = load(write_external(tmp_path))
    twin = model.copy()
    twin.set_array(twin.proto.graph.initializer[0], np.zeros((1, 1), "f"))
    assert model.array(model.proto.graph.initializer[0]).shape == (32, 32)
    np.testing.assert_array_equal(values(twin)["w1"], values(model)["w1"])


def test_arrays_outlive_the_model(tmp_path):
    model = load(write_external(tmp_path))
    before = model.array(model.proto.graph.initializer[0])
    kept = before.copy()
    model.close()
    np.testing.assert_array_equal(before, kept)


# --- saving


def test_an_untouched_model_is_saved_as_it_was(tmp_path):
    source = tmp_path / "in.onnx"
    source.write_bytes(decorated().SerializeToString())
    save(load(source), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == source.read_bytes()
    assert files_in(tmp_path) == ["in.onnx", "out.onnx"]


def test_an_untouched_external_model_keeps_everything(tmp_path):
    source = write_external(tmp_path, decorated())
    save(load(source), tmp_path / "out.onnx")
    assert files_in(tmp_path) == ["model.onnx", "out.onnx", data_of(tmp_path / "out.onnx").name, "weights.bin"]
    before, after = onnx.load(source), onnx.load(tmp_path / "out.onnx")
    for a, b in zip(tensors(before), tensors(after), strict=True):
        if a.name != "words":
            np.testing.assert_array_equal(numpy_helper.to_array(a), numpy_helper.to_array(b), strict=True)
        for tensor in (a, b):  # what is left must agree
            for field in ("raw_data", "float_data", "data_location", "external_data"):
                tensor.ClearField(field)
    assert before.SerializeToString() == after.SerializeToString()


def test_a_patched_external_model_runs_as_it_was_patched(tmp_path):
    model = load(write_external(tmp_path))
    first, _, last = model.proto.graph.initializer
    half = model.array(first)[:, :16]
    model.set_array(first, half)
    model.set_array(model.proto.graph.initializer[1], values(model)["w1"][:16])
    save(model, tmp_path / "out.onnx")
    x = np.random.default_rng(1).standard_normal((2, 32), "f")
    got = onnxruntime.InferenceSession(tmp_path / "out.onnx").run(None, {"x0": x})[0]
    want = x @ half @ values(Model(network()))["w1"][:16] @ model.array(last)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert all(is_external(t) for t in onnx.load(tmp_path / "out.onnx", load_external_data=False).graph.initializer)


def test_small_external_tensors_move_into_the_model(tmp_path):
    proto = network()
    proto.graph.initializer.append(numpy_helper.from_array(np.arange(4), "small"))
    save(load(write_external(tmp_path, proto)), tmp_path / "out.onnx")
    saved = onnx.load(tmp_path / "out.onnx", load_external_data=False).graph.initializer
    assert [is_external(t) for t in saved] == [True, True, True, False]
    np.testing.assert_array_equal(numpy_helper.to_array(saved[3]), np.arange(4))


def test_weights_that_pass_the_limit_go_outside(tmp_path, monkeypatch):
    monkeypatch.setattr(model_module, "PROTOBUF_LIMIT", model_module._HEADROOM + 3 * 4096 - 1)
    save(load(network()), tmp_path / "big.onnx")
    assert data_of(tmp_path / "big.onnx").stat().st_size == 3 * 4096
    np.testing.assert_equal(values(load(tmp_path / "big.onnx")), values(load(network())))
    monkeypatch.setattr(model_module, "PROTOBUF_LIMIT", model_module._HEADROOM + 3 * 4096)
    save(load(network()), tmp_path / "small.onnx")
    assert files_in(tmp_path) == ["big.onnx", data_of(tmp_path / "big.onnx").name, "small.onnx"]


def test_the_same_model_gives_the_same_bytes_and_never_appends(tmp_path):
    model = load(write_external(tmp_path))
    save(model, tmp_path / "out.onnx")
    first = contents(tmp_path)
    save(model, tmp_path / "out.onnx")
    assert contents(tmp_path) == first


def test_weights_are_written_one_at_a_time(tmp_path):
    one = 4 * 2**20
    model = load(write_external(tmp_path, network(width=1024, layers=12)))
    tracemalloc.start()
    save(model, tmp_path / "out.onnx")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data_of(tmp_path / "out.onnx").stat().st_size >= 12 * one
    assert peak < 3 * one


def test_the_input_is_never_written_over(tmp_path):
    save(load(write_external(tmp_path)), tmp_path / "out.onnx")
    source = (tmp_path / "out.onnx").rename(tmp_path / "net.onnx")  # its data bears the name that a copy's would have
    before = contents(tmp_path)
    os.link(source, tmp_path / "hard.onnx")
    (tmp_path / "soft.onnx").symlink_to(source)
    model = load(source)
    for name in ("net.onnx", "hard.onnx", "soft.onnx", data_of(source).name, "out.onnx"):
        with pytest.raises(InputError, match="is a file of the input"):
            save(model, tmp_path / name)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert files_in(tmp_path) == sorted([*before, "hard.onnx", "soft.onnx"])


def test_places_that_cannot_be_written_are_refused(tmp_path):
    model = load(network())
    with pytest.raises(InputError, match="does not exist"):
        save(model, tmp_path / "no" / "out.onnx")
    with pytest.raises(InputError, match="not a regular file"):
        save(model, tmp_path)
    with pytest.raises(InputError, match="not a regular file"):
        save(model, os.devnull)
    (tmp_path / "there.onnx").write_bytes(b"precious")
    with pytest.raises(InputError, match="exists already"):
        save(model, tmp_path / "there.onnx", overwrite=False)
    assert (tmp_path / "there.onnx").read_bytes() == b"precious"
    save(model, tmp_path / "there.onnx")
    assert load(tmp_path / "there.onnx").proto == model.proto


@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch, external, fault):
    folder = tmp_path / "out"
    folder.mkdir()
    model = load(write_external(tmp_path)) if external else load(network())

    def fail(*args):
        raise fault

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt if fault is KeyboardInterrupt else OutputError):
        save(model, folder / "out.onnx")
    assert files_in(folder) == []
