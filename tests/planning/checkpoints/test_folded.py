"""Checkpoints of models in whose export a BatchNormalization was folded: it is found by its values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

import onnxprune
from onnxprune.errors import InputError
from onnxprune.model.model import load
from onnxprune.runtime.session import local_session
from tests.ops.case import build

Array = NDArray[Any]
EPSILON = 1e-3
X = np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)
WHOLE = """(float[N,3,6,6] x) => (float[N,2] y)
    { h = Conv <pads = [1,1,1,1]> (x, a_kernel, a_bias)
      n = BatchNormalization <epsilon = 0.001> (h, a_bn_gamma, a_bn_beta, a_bn_mean, a_bn_variance)  r = Relu(n)
      k = Conv <pads = [1,1,1,1], group = 8> (r, b_kernel, b_bias)
      m = BatchNormalization <epsilon = 0.001> (k, b_bn_gamma, b_bn_beta, b_bn_mean, b_bn_variance)  e = Relu(m)
      g = GlobalAveragePool(e)  f = Flatten(g)  y = Gemm <transB = 1> (f, c_kernel, c_bias) }"""
FOLDED = """(float[N,3,6,6] x) => (float[N,2] y)
    { h = Conv <pads = [1,1,1,1]> (x, w1, c1)  r = Relu(h)
      k = Conv <pads = [1,1,1,1], group = 8> (r, w2, c2)  e = Relu(k)
      g = GlobalAveragePool(e)  f = Flatten(g)  y = Gemm <transB = 1> (f, c_kernel, c_bias) }"""
APART = """(float[N,3,6,6] x) => (float[N,2] y)
    { h = Conv <pads = [1,1,1,1]> (x, a_kernel)  n = Mul(h, s1)  o = Add(n, t1)  r = Relu(o)
      k = Conv <pads = [1,1,1,1], group = 8> (r, w2, c2)  e = Relu(k)
      g = GlobalAveragePool(e)  f = Flatten(g)  y = Gemm <transB = 1> (f, c_kernel, c_bias) }"""


def state(lacking: str = "") -> dict[str, Array]:
    """The tensors of the net; gammas, betas or biases that a layer lacks are ones or zeros."""
    draw = np.random.default_rng(1)
    shapes = {"a_kernel": (8, 3, 3, 3), "b_kernel": (8, 1, 3, 3), "c_kernel": (2, 8), "c_bias": (2,)}
    shapes |= {f"{layer}_{part}": (8,) for layer in "ab" for part in ("bias", "bn_gamma", "bn_beta", "bn_mean")}
    found = {name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    found |= {f"{layer}_bn_variance": draw.uniform(0.1, 2, 8).astype(np.float32) for layer in "ab"}
    for name in found:
        if lacking and lacking in name and not name.startswith("c"):
            found[name] = np.full_like(found[name], lacking == "gamma")
    return found


def model(text: str, arrays: dict[str, Array]) -> onnx.ModelProto:
    made = build(text)
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return made


def exported(tensors: dict[str, Array]) -> dict[str, Array]:
    """What an exporter makes of them, in float32 as exporters compute."""
    found = {name: tensors[name] for name in ("a_kernel", "c_kernel", "c_bias")}
    for number, layer in ((1, "a"), (2, "b")):
        gamma, beta, mean, variance = (tensors[f"{layer}_bn_{p}"] for p in ("gamma", "beta", "mean", "variance"))
        scale = gamma / np.sqrt(variance + np.float32(EPSILON))
        found[f"w{number}"] = tensors[f"{layer}_kernel"] * scale.reshape(-1, 1, 1, 1)
        found[f"c{number}"] = beta + (tensors[f"{layer}_bias"] - mean) * scale
        found[f"s{number}"], found[f"t{number}"] = scale.reshape(-1, 1, 1), found[f"c{number}"].reshape(-1, 1, 1)
    return found


def of(text: str, arrays: dict[str, Array]) -> dict[str, Array]:
    """Those arrays that a model in this text reads."""
    return {name: array for name, array in arrays.items() if any(f" {name}{end}" in text for end in (",", ")"))}


def stored_names(tensors: dict[str, Array], turned: bool, lacking: str) -> dict[str, tuple[str, Array]]:
    """The tensors as a framework stores them: names by layer, kernels with their axes turned, if so."""
    found = {}
    for name, array in tensors.items():
        if not (lacking and lacking in name and not name.startswith("c")):
            order = (2, 3, 1, 0)[-array.ndim :] if array.ndim == 4 else tuple(range(array.ndim))
            place = name.replace("_bn_", "_bn.") if "_bn_" in name else name.replace("_", ".")
            found[f"net.{place}"] = name, array.transpose(order) if turned else array
    return found


def assert_sliced(tmp_path: Path, text: str, *, turned: bool = False, lacking: str = "", **options: Any) -> None:
    tensors = state(lacking)
    onnx.save(model(text, of(text, exported(tensors))), tmp_path / "m.onnx")
    pruned = onnxprune.prune(tmp_path / "m.onnx", repair="none", verify=False, time=False, **options)
    stored = stored_names(tensors, turned, lacking)
    np.savez(tmp_path / "a.npz", **{name: array for name, (_, array) in stored.items()})
    onnxprune.slice_checkpoint(pruned.plan, tmp_path / "a.npz", tmp_path / "b.npz", model=tmp_path / "m.onnx")
    with np.load(tmp_path / "b.npz") as file:
        left = {name: file[place] for place, (name, _) in stored.items()}
    if turned:
        left |= {name: left[name].transpose(3, 2, 0, 1) for name in ("a_kernel", "b_kernel")}
    kept = len(left["a_kernel"])
    assert kept < 8 or "pattern" in options
    filled = {name: array[:kept] for name, array in tensors.items() if name not in left} | left
    whole = model(WHOLE.replace("group = 8", f"group = {kept}"), filled)
    expected = local_session(load(pruned.proto)).run(["y"], {"x": X})[0]
    np.testing.assert_allclose(local_session(load(whole)).run(["y"], {"x": X})[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lacking", ["", "bias", "gamma", "beta"])
@pytest.mark.parametrize("turned", [False, True])
def test_into_layers(tmp_path: Path, turned: bool, lacking: str) -> None:
    assert_sliced(tmp_path, FOLDED, turned=turned, lacking=lacking, ratio=0.5)


def test_into_a_scale_and_a_shift(tmp_path: Path) -> None:
    assert_sliced(tmp_path, APART, lacking="bias", ratio=0.5)


def test_zeros_of_a_layer_are_not_those_of_its_normalisation(tmp_path: Path) -> None:
    assert_sliced(tmp_path, FOLDED, pattern="2:4")


def test_into_layers_that_keep_their_names(tmp_path: Path) -> None:
    """As some exporters do: the kernel has the name of the tensor, but other values."""
    text = FOLDED.replace("w1", "a_kernel").replace("w2", "b_kernel")
    tensors = state()
    made = exported(tensors)
    made |= {"a_kernel": made["w1"], "b_kernel": made["w2"]}
    onnx.save(model(text, of(text, made)), tmp_path / "m.onnx")
    pruned = onnxprune.prune(tmp_path / "m.onnx", 0.5, repair="none", verify=False, time=False)
    stored = {f"model.{name.replace('_bn_', '_bn.')}": array for name, array in tensors.items()}
    np.savez(tmp_path / "a.npz", **stored)
    onnxprune.slice_checkpoint(pruned.plan, tmp_path / "a.npz", tmp_path / "b.npz", model=tmp_path / "m.onnx")
    kept = np.delete(np.arange(8), pruned.plan.removed["a_kernel"]["0"])
    with np.load(tmp_path / "b.npz") as file:
        for name, array in tensors.items():
            left = array[:, kept] if name == "c_kernel" else array if name == "c_bias" else array[kept]
            np.testing.assert_array_equal(file[f"model.{name.replace('_bn_', '_bn.')}"], left)


def test_what_values_do_not_tell_apart(tmp_path: Path) -> None:
    """Normalisations that were never trained are all alike."""
    tensors = state() | {
        f"{layer}_bn_{part}": np.ones(8, np.float32) for layer in "ab" for part in ("gamma", "variance")
    }
    onnx.save(model(FOLDED, of(FOLDED, exported(tensors))), tmp_path / "m.onnx")
    pruned = onnxprune.prune(tmp_path / "m.onnx", 0.5, repair="none", verify=False, time=False)
    stored = stored_names(tensors, False, "")
    np.savez(tmp_path / "a.npz", **{name: array for name, (_, array) in stored.items()})
    with pytest.raises(InputError, match="the checkpoint has no tensor for"):
        onnxprune.slice_checkpoint(pruned.plan, tmp_path / "a.npz", tmp_path / "b.npz", model=tmp_path / "m.onnx")
