"""External data: references are checked, and data files are written one tensor at a time."""

from __future__ import annotations

import os
import tracemalloc

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from onnxprune.errors import InputError
from onnxprune.model import save as save_module
from onnxprune.model.model import Model, load
from onnxprune.model.save import save
from onnxprune.model.tensors import is_external, tensors
from tests.model.cases import data_of, decorated, files_in, network, values, write_external


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


def test_a_checksum_of_the_old_file_is_not_that_of_the_new_one(tmp_path):
    path = write_external(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    proto.graph.initializer[0].external_data.add(key="checksum", value="0" * 40)
    path.write_bytes(proto.SerializeToString())
    model = load(path)
    save(model, tmp_path / "new.onnx")
    for tensor in onnx.load(tmp_path / "new.onnx", load_external_data=False).graph.initializer:
        assert "checksum" not in [e.key for e in tensor.external_data]


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


def test_weights_beyond_the_limit_are_written_to_a_data_file(tmp_path, monkeypatch):
    monkeypatch.setattr(save_module, "PROTOBUF_LIMIT", save_module._HEADROOM + 3 * 4096 - 1)
    save(load(network()), tmp_path / "big.onnx")
    assert data_of(tmp_path / "big.onnx").stat().st_size == 3 * 4096
    np.testing.assert_equal(values(load(tmp_path / "big.onnx")), values(load(network())))
    monkeypatch.setattr(save_module, "PROTOBUF_LIMIT", save_module._HEADROOM + 3 * 4096)
    save(load(network()), tmp_path / "small.onnx")
    assert files_in(tmp_path) == ["big.onnx", data_of(tmp_path / "big.onnx").name, "small.onnx"]


@pytest.mark.slow
def test_weights_are_written_one_at_a_time(tmp_path):
    one = 4 * 2**20
    model = load(write_external(tmp_path, network(width=1024, layers=12)))
    tracemalloc.start()
    save(model, tmp_path / "out.onnx")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data_of(tmp_path / "out.onnx").stat().st_size >= 12 * one
    assert peak < 3 * one
