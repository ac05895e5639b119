"""Checkpoints sliced by a plan: what is left is what the pruned model holds."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import onnxprune
from onnxprune.errors import InputError, PlanError
from onnxprune.planning.plan import Plan
from tests.ops.case import build
from tests.support.commands import Cli

NET = """(float[N,3,6,6] x) => (float[N,2] y)
    <float[8,3,3,3] conv.weight, float[8] bn.weight, float[8] bn.bias, float[8] bn.running_mean,
     float[8] posbn.running_var, float[6,8,3,3] next.weight, float[2,6] fc.weight, float[2] fc.bias>
    { h = Conv <pads = [1,1,1,1]> (x, conv.weight)
      n = BatchNormalization(h, bn.weight, bn.bias, bn.running_mean, posbn.running_var)  r = Relu(n)
      k = Conv <pads = [1,1,1,1]> (r, next.weight)  e = Relu(k)
      g = GlobalAveragePool(e)  f = Flatten(g)  y = Gemm <transB = 1> (f, fc.weight, fc.bias) }"""


def net() -> onnx.ModelProto:
    """The net above, with names that have dots as those of PyTorch."""
    text = NET
    names = ["conv.weight", "posbn.running_var", "bn.running_mean", "bn.weight", "bn.bias", "next.weight", "fc.weight"]
    for name in [*names, "fc.bias"]:
        text = text.replace(name, name.replace(".", "_"))
    model = build(text)
    new = {name.replace(".", "_"): name for name in [*names, "fc.bias"]}
    for tensor in model.graph.initializer:
        tensor.name = new[tensor.name]
    for node in model.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
    return model


MODEL = net()
WEIGHTS: dict[str, NDArray[Any]] = {t.name: onnx.numpy_helper.to_array(t) for t in MODEL.graph.initializer}
PRUNED = onnxprune.prune(MODEL, 0.5, importance="l2", repair="none", verify=False, time=False)
LEFT: dict[str, NDArray[Any]] = {t.name: onnx.numpy_helper.to_array(t) for t in PRUNED.proto.graph.initializer}


def assert_left(found: dict[str, NDArray[Any]], prefix: str = "") -> None:
    for name, array in LEFT.items():
        np.testing.assert_array_equal(found[prefix + name], array)


def test_a_state_in_memory() -> None:
    found = onnxprune.slice_state(PRUNED.plan, {**WEIGHTS, "steps": np.array(3)})
    assert_left(found)
    assert found["steps"] == 3 and found["conv.weight"].shape == (4, 3, 3, 3)


def test_a_tensor_of_two_names_is_sliced_under_both() -> None:
    """As an output layer that is tied to an embedding; a layer that began as a copy is another one."""
    copy = {"copy": WEIGHTS["fc.weight"].copy()}
    found = onnxprune.slice_state(PRUNED.plan, {**WEIGHTS, "head.weight": WEIGHTS["fc.weight"], **copy})
    np.testing.assert_array_equal(found["head.weight"], LEFT["fc.weight"])
    assert found["copy"].shape == WEIGHTS["fc.weight"].shape


def test_states_under_prefixes_are_sliced_with_the_weights(tmp_path: Path) -> None:
    stored = {f"{p}{name}": array for p in ("model.", "adam/m/") for name, array in WEIGHTS.items()}
    np.savez(tmp_path / "a.npz", **stored, step=np.array(7))
    report = onnxprune.slice_checkpoint(PRUNED.plan, tmp_path / "a.npz", tmp_path / "b.npz")
    with np.load(tmp_path / "b.npz") as loaded:
        found = {name: loaded[name] for name in loaded.files}
    assert_left(found, "model.")
    assert_left(found, "adam/m/")
    assert report.shapes["model.conv.weight"] == ((8, 3, 3, 3), (4, 3, 3, 3)) and report.tensors == len(stored) + 1
    first = (tmp_path / "b.npz").read_bytes()
    onnxprune.slice_checkpoint(PRUNED.plan, tmp_path / "a.npz", tmp_path / "b.npz")
    assert (tmp_path / "b.npz").read_bytes() == first


def write_safetensors(path: Path, arrays: dict[str, tuple[str, NDArray[Any]]]) -> None:
    header, data = {}, b""
    for name, (kind, array) in arrays.items():
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_safetensors(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def test_safetensors(tmp_path: Path) -> None:
    """Those of a type that numpy lacks too: a brain float is sliced as two bytes."""
    brain = np.arange(8 * 3 * 9, dtype=np.uint16).reshape(8, 3, 3, 3)
    arrays = {name: ("F32", array) for name, array in WEIGHTS.items()} | {"conv.weight": ("BF16", brain)}
    write_safetensors(tmp_path / "a.safetensors", arrays)
    onnxprune.slice_checkpoint(PRUNED.plan, tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    header, data = read_safetensors(tmp_path / "b.safetensors")
    assert header["__metadata__"] == {"format": "pt"} and header["conv.weight"]["dtype"] == "BF16"
    kept = [i for i in range(8) if i not in PRUNED.plan.removed["conv.weight"]["0"]]
    start, end = header["conv.weight"]["data_offsets"]
    np.testing.assert_array_equal(np.frombuffer(data[start:end], np.uint16).reshape(4, 3, 3, 3), brain[kept])
    for name in ("fc.weight", "next.weight", "bn.bias"):
        start, end = header[name]["data_offsets"]
        np.testing.assert_array_equal(np.frombuffer(data[start:end], np.float32).reshape(LEFT[name].shape), LEFT[name])


def renamed() -> dict[str, NDArray[Any]]:
    """As another framework has them: kernels with their axes turned round, under other names."""
    return {
        "a/kernel": WEIGHTS["conv.weight"].transpose(2, 3, 1, 0),
        "a/gamma": WEIGHTS["bn.weight"],
        "a/beta": WEIGHTS["bn.bias"],
        "a/mean": WEIGHTS["bn.running_mean"],
        "a/variance": WEIGHTS["posbn.running_var"],
        "b/kernel": WEIGHTS["next.weight"].transpose(2, 3, 1, 0),
        "c/kernel": WEIGHTS["fc.weight"].T,
        "c/bias": WEIGHTS["fc.bias"],
    }


@pytest.mark.parametrize("kind", ["json", "toml"])
def test_a_map_of_other_names_and_axes(tmp_path: Path, kind: str) -> None:
    axes = ["", "", "{0}:1", "{0}:0"]
    tensors = {
        "a/kernel": ["", "", "", "conv.weight:0"],
        **{f"a/{n}": ["conv.weight:0"] for n in ("gamma", "beta", "mean", "variance")},
        "b/kernel": [a.format("next.weight") for a in axes],
        "c/kernel": ["fc.weight:1", "fc.weight:0"],
    }
    ignored = ["bn.weight", "bn.bias", "bn.running_mean", "posbn.running_var"]
    path = tmp_path / f"map.{kind}"
    if kind == "json":
        path.write_text(json.dumps({"tensors": tensors, "ignore": ignored}))
    else:
        lines = [f"{json.dumps(name)} = {json.dumps(entry)}" for name, entry in tensors.items()]
        path.write_text(f"ignore = {json.dumps(ignored)}\n[tensors]\n" + "\n".join(lines))
    np.savez(tmp_path / "a.npz", **renamed())
    onnxprune.slice_checkpoint(PRUNED.plan, tmp_path / "a.npz", tmp_path / "b.npz", tensor_map=path)
    _assert_renamed(tmp_path / "b.npz")


def test_tensors_are_found_by_their_values(tmp_path: Path) -> None:
    onnx.save(MODEL, tmp_path / "m.onnx")
    np.savez(tmp_path / "a.npz", **renamed())
    onnxprune.slice_checkpoint(PRUNED.plan, tmp_path / "a.npz", tmp_path / "b.npz", model=tmp_path / "m.onnx")
    _assert_renamed(tmp_path / "b.npz")


def _assert_renamed(path: Path) -> None:
    with np.load(path) as found:
        np.testing.assert_array_equal(found["a/kernel"].transpose(3, 2, 0, 1), LEFT["conv.weight"])
        np.testing.assert_array_equal(found["b/kernel"].transpose(3, 2, 0, 1), LEFT["next.weight"])
        np.testing.assert_array_equal(found["c/kernel"].T, LEFT["fc.weight"])
        np.testing.assert_array_equal(found["a/variance"], LEFT["posbn.running_var"])


TIED = """(float[N,3,6,6] x) => (float[N,4,4,8] y)
    <float[8,3,3,3] conv, float[8] bias, float[8,1,1] slope, float[8,8] out, float[8] offset>
    { h = Conv(x, conv, bias)  p = PRelu(h, slope)  r = Transpose <perm = [0,2,3,1]> (p)  z = MatMul(r, out)
      y = Add(z, offset) }"""


def test_values_with_axes_of_length_1_and_of_what_is_tied(tmp_path: Path) -> None:
    """A slope of each channel stands before two axes of space; a tied weight is one tensor of two names."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    model = build(TIED)
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    made = onnxprune.prune(model, 0.5, importance="l2", repair="none", verify=False, time=False)
    onnx.save(model, tmp_path / "m.onnx")
    out = torch.from_numpy(arrays["out"].T.copy())
    state = {n: torch.from_numpy(arrays[n].copy()) for n in ("conv", "bias", "offset")}
    state |= {"act.weight": torch.from_numpy(arrays["slope"].reshape(-1).copy()), "a.weight": out, "b.weight": out}
    average = {name: tensor.clone() for name, tensor in state.items()}
    torch.save({"model": state, "ema": average}, tmp_path / "a.pt")
    onnxprune.slice_checkpoint(made.plan, tmp_path / "a.pt", tmp_path / "b.pt", model=tmp_path / "m.onnx")
    found = torch.load(tmp_path / "b.pt", weights_only=True)
    for state in (found["model"], found["ema"]):
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if "weight" in name}
        assert shapes == {"act.weight": (4,), "a.weight": (8, 4), "b.weight": (8, 4)}


def test_a_tensor_of_two_constants_that_are_cut_apart(tmp_path: Path) -> None:
    text = """(float[N,6] x) => (float[N,8] y, float[N,8] z) <float[6,6] w, float[6,8] u, float[6,8] v>
        { a = MatMul(x, w)  y = MatMul(a, u)  b = Relu(a)  z = MatMul(b, v) }"""
    model = build(text)
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    plan = onnxprune.prune(model, 0.5, importance="l2", repair="none", verify=False, time=False).plan
    plan.removed["v"]["0"] = [i for i in range(6) if i not in plan.removed["v"]["0"]]
    model.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(arrays["u"], "v"))
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "a.npz", w=arrays["w"], u=arrays["u"])
    with pytest.raises(InputError, match="tensor 'u' has the values of the constant 'v' too"):
        onnxprune.slice_checkpoint(plan, tmp_path / "a.npz", tmp_path / "b.npz", model=tmp_path / "m.onnx")


def test_values_are_looked_for_where_names_tell_nothing(tmp_path: Path) -> None:
    """Averages under a prefix are those of the weights, whose names tell, also with the model at hand."""
    both = {
        f"{prefix}.{name}": array + (prefix == "ema") for name, array in WEIGHTS.items() for prefix in ("model", "ema")
    }
    np.savez(tmp_path / "c.npz", **both)
    onnx.save(MODEL, tmp_path / "net.onnx")
    onnxprune.slice_checkpoint(PRUNED.plan, tmp_path / "c.npz", tmp_path / "s.npz", model=tmp_path / "net.onnx")
    with np.load(tmp_path / "s.npz") as found:
        assert {n: found[f"ema.{n}"].shape for n in WEIGHTS} == {n: LEFT[n].shape for n in WEIGHTS}


def test_averages_of_what_is_trained_alone() -> None:
    """Those of `named_parameters()`: without the statistics of normalisations, and without what is tied."""
    trained = {name: array for name, array in WEIGHTS.items() if "running" not in name}
    both = {f"model.{n}": a for n, a in WEIGHTS.items()} | {f"ema.{n}": a + 1 for n, a in trained.items()}
    found = onnxprune.slice_state(PRUNED.plan, {**both, "other.fc.weight": WEIGHTS["fc.weight"] + 2})
    assert {n: found[f"ema.{n}"].shape for n in trained} == {n: LEFT[n].shape for n in trained}
    assert found["other.fc.weight"].shape == WEIGHTS["fc.weight"].shape  # one layer alone is another model's


def test_averages_of_what_only_values_or_a_map_tell(tmp_path: Path) -> None:
    state = {name: array for name, array in WEIGHTS.items() if name != "fc.weight"} | {"head": WEIGHTS["fc.weight"].T}
    stored = {f"model.{n}": a for n, a in state.items()} | {f"ema.{n}": a + 1 for n, a in state.items()}
    tensor_map = {"tensors": {"model.head": ["fc.weight:1", "fc.weight:0"]}}
    by_map = onnxprune.slice_state(PRUNED.plan, stored, tensor_map=tensor_map)
    onnx.save(MODEL, tmp_path / "m.onnx")
    np.savez(tmp_path / "a.npz", **stored)
    onnxprune.slice_checkpoint(PRUNED.plan, tmp_path / "a.npz", tmp_path / "b.npz", model=tmp_path / "m.onnx")
    with np.load(tmp_path / "b.npz") as by_values:
        for found in (by_map, by_values):
            np.testing.assert_array_equal(found["ema.head"], found["model.head"] + 1)
            assert found["ema.head"].shape == LEFT["fc.weight"].T.shape


def test_a_normalisation_that_the_export_folded() -> None:
    """Its tensors would keep the width that the layer before it lost."""
    assert onnxprune.slice_state(PRUNED.plan, {**WEIGHTS, "apart.running_mean": np.zeros(5, np.float32)})
    state = {**WEIGHTS, "bn1.running_mean": np.zeros(8, np.float32)}
    with pytest.raises(InputError, match=r"no constant for 'bn1.running_mean': the export folded it"):
        onnxprune.slice_state(PRUNED.plan, state)
    for kept, source in ((4, "conv.weight:0"), (8, "")):
        found = onnxprune.slice_state(PRUNED.plan, state, tensor_map={"tensors": {"bn1.running_mean": [source]}})
        assert found["bn1.running_mean"].shape == (kept,)


def test_a_bias_that_the_model_lacks() -> None:
    """Exporters store equal constants once, under one of their names."""
    state = {**WEIGHTS, "next.bias": np.zeros(6, np.float32)}
    with pytest.raises(InputError, match=r"no constant for 'next.bias', and the plan cuts outputs of 'next.weight'"):
        onnxprune.slice_state(PRUNED.plan, state)
    found = onnxprune.slice_state(PRUNED.plan, state, tensor_map={"tensors": {"next.bias": ["next.weight:0"]}})
    assert found["next.bias"].shape == (3,)


def test_zeros_of_a_part_are_not_lost() -> None:
    made = onnxprune.prune(MODEL, pattern="2:4", repair="none", verify=False, time=False)
    name = next(iter(made.plan.zeroed))
    axes = [f"{name}:{i}" if i else "" for i in range(WEIGHTS[name].ndim)]
    with pytest.raises(InputError, match="made of parts"):
        onnxprune.slice_state(made.plan, WEIGHTS, tensor_map={"tensors": {name: axes}})


def test_zeros_and_orders_of_a_plan() -> None:
    made = onnxprune.prune(MODEL, 0.5, pattern=["channels", "weights=0.5"], repair="none", verify=False, time=False)
    found = onnxprune.slice_state(made.plan, WEIGHTS)
    for tensor in made.proto.graph.initializer:
        np.testing.assert_array_equal(found[tensor.name], onnx.numpy_helper.to_array(tensor))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: {n: a for n, a in w.items() if n != "fc.weight"}, "the checkpoint has no tensor for 'fc.weight'"),
        (lambda w: {**w, "conv.weight": w["conv.weight"][:3]}, "tensor 'conv.weight' has 3 entries where the plan"),
        (
            lambda w: {**w, "bn.bias": np.ones(9, np.float32)},
            r"tensor 'bn.bias' has 9 entries where the plan removes 4 of 8, up to number \d",
        ),
    ],
)
def test_what_does_not_fit(change: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        onnxprune.slice_state(PRUNED.plan, change(WEIGHTS))


def test_maps_that_do_not_fit(tmp_path: Path) -> None:
    for data, says in (
        ({"tensor": {}}, "the keys 'tensors' and 'ignore' only"),
        ({"tensors": {"conv.weight": 3}}, "neither a constant nor a list"),
        ({"tensors": {"nothing": "conv.weight"}}, "the checkpoint has no tensor 'nothing'"),
        ({"tensors": {"conv.weight": "other"}}, "the plan changes no constant 'other'"),
    ):
        with pytest.raises(InputError, match=says):
            onnxprune.slice_state(PRUNED.plan, WEIGHTS, tensor_map=data)
    np.savez(tmp_path / "a.npz", **WEIGHTS)
    for source, target, says in (("a.npz", "b.pt", "another .npz file"), ("a.npz", "a.npz", "is the input")):
        with pytest.raises(InputError, match=says):
            onnxprune.slice_checkpoint(PRUNED.plan, tmp_path / source, tmp_path / target)
    (tmp_path / "c.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"cannot be read as \.npz"):
        onnxprune.slice_checkpoint(PRUNED.plan, tmp_path / "c.npz", tmp_path / "d.npz")
    assert not (tmp_path / "d.npz").exists()
    with pytest.raises(PlanError, match="leaves out blocks"):
        onnxprune.slice_state(Plan("x", depth=[{"sum": "s", "summand": "t"}]), WEIGHTS)


def test_the_command(tmp_path: Path, cli: Cli) -> None:
    np.savez(tmp_path / "a.npz", **WEIGHTS)
    (tmp_path / "plan.json").write_text(PRUNED.plan.to_json())
    done = cli("slice", str(tmp_path / "plan.json"), str(tmp_path / "a.npz"))
    assert done.code == 0 and f"{len(WEIGHTS) - 1} of {len(WEIGHTS)} tensors sliced" in done.out
    with np.load(tmp_path / "a.pruned.npz") as found:
        assert_left(dict(found))
    again = cli("slice", str(tmp_path / "plan.json"), str(tmp_path / "a.npz"))
    assert again.code == 2


def test_layers_that_count_what_went_as_zeros(tmp_path: Path, cli: Cli) -> None:
    """A normalisation of fewer channels in a framework is another one than that of the pruned model."""
    model = build("""(float[N,4] x) => (float[N,2] y) <float[4,6] w, float[6] s, float[6] b, float[6,2] u>
        { h = MatMul(x, w)  [norm] n = LayerNormalization(h, s, b)  y = MatMul(n, u) }""")
    made = onnxprune.prune(model, 0.5, importance="l2", repair="none", verify=False, time=False)
    assert made.plan.refilled == ["LayerNormalization 'norm'"] and not PRUNED.plan.refilled
    np.savez(tmp_path / "a.npz", **{t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer})
    (tmp_path / "plan.json").write_text(made.plan.to_json())
    done = cli("slice", str(tmp_path / "plan.json"), str(tmp_path / "a.npz"), "--json")
    assert done.err.startswith("warning: LayerNormalization 'norm' of the pruned model still counts what was removed")
    assert json.loads(done.out)["warnings"] == [done.err.removeprefix("warning: ").strip()]


def test_files_that_the_command_reads_are_not_replaced(tmp_path: Path, cli: Cli) -> None:
    np.savez(tmp_path / "a.npz", **WEIGHTS)
    (tmp_path / "plan.json").write_text(PRUNED.plan.to_json())
    (tmp_path / "map.npz").write_text("{}")
    files = str(tmp_path / "plan.json"), str(tmp_path / "a.npz")
    for option in ("--map", "--model"):
        done = cli("slice", *files, option, str(tmp_path / "map.npz"), "-o", str(tmp_path / "map.npz"))
        assert done.code == 2 and (tmp_path / "map.npz").read_text() == "{}"
