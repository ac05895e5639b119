"""Models are loaded, copied and saved."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest

from onnxprune.errors import InputError, OutputError
from onnxprune.model.model import load
from onnxprune.model.save import save
from tests.model.cases import data_of, decorated, files_in, network, values, write_external
from tests.support.commands import contents


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


def test_a_missing_file_is_reported_with_the_most_similar_name(tmp_path):
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
def test_files_that_are_not_models_are_refused_in_one_line(tmp_path, content, message, hint):
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


def test_an_untouched_model_is_saved_as_it_was(tmp_path):
    source = tmp_path / "in.onnx"
    source.write_bytes(decorated().SerializeToString())
    save(load(source), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == source.read_bytes()
    assert files_in(tmp_path) == ["in.onnx", "out.onnx"]


def test_the_same_model_gives_the_same_bytes_and_never_appends(tmp_path):
    model = load(write_external(tmp_path))
    save(model, tmp_path / "out.onnx")
    first = contents(tmp_path)
    save(model, tmp_path / "out.onnx")
    assert contents(tmp_path) == first


def test_files_of_the_input_are_never_overwritten(tmp_path):
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


def test_targets_that_cannot_be_written_are_refused(tmp_path):
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
