"""The check itself is checked: it finds what is wrong, and only that."""

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.cost.macs import macs_from_shapes
from onnxprune.cost.trace import traced_shapes
from onnxprune.errors import InputError, VerificationError
from onnxprune.model.model import load
from onnxprune.model.save import save
from onnxprune.runtime import session as runtime
from onnxprune.runtime.session import session
from onnxprune.verification.check import check, compare
from onnxprune.verification.drift import Drift, drift
from onnxprune.verification.output_sums import OutputSums
from tests.ops.case import build
from tests.support.text_models import parse

# --- drift


def test_drift_is_what_its_names_say():
    assert drift(np.array([3.0, 4.0]), np.array([3.0, 4.0])) == Drift(0.0, 0.0, 1.0)
    moved = drift(np.array([3.0, 4.0], "f"), np.array([3.0, -1.0], "f"))
    assert moved.max_abs == pytest.approx(5)
    assert moved.rel_rms == pytest.approx(1)  # |(0, 5)| over |(3, 4)|
    assert moved.cosine == pytest.approx(5 / (5 * 10**0.5))
    assert drift(np.array([0, 255], np.uint8), np.array([1, 0], np.uint8)).max_abs == pytest.approx(255)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32", "uint64", "U3", "S3", "O"])
def test_classes_are_equal_or_not(dtype):
    """Class 7 is no further from class 1 than class 2 is."""
    before, near, far = (np.array(v).astype("U3").astype(dtype) for v in ([1, 5, 3, 4], [2, 5, 3, 4], [900, 5, 3, 4]))
    for other in (near, far):
        assert drift(before, other) == Drift(None, None, None, equal=0.75)
    assert drift(before, before).within(0.0) is True and drift(before, far).within(1e9) is False
    sums = OutputSums("y", classified=False)
    for part in (slice(0, 3), slice(3, 4)):
        sums.add(before[part], far[part])
    assert sums.drift() == Drift(None, None, None, equal=0.75)
    assert drift(np.array([True, False]), np.array([True, True])).equal == 0.5
    assert drift(np.zeros(0, dtype), np.zeros(0, dtype)).equal == 1.0


def test_drift_in_extremes_of_range():
    huge = drift(np.array([3e300, 4e300]), np.array([3e300, -4e300]))
    assert huge.rel_rms == pytest.approx(8 / 5) and huge.cosine == pytest.approx(-7 / 25)
    assert drift(np.array([3e-300]), np.array([6e-300])).rel_rms == pytest.approx(1)
    assert drift(np.zeros(2), np.zeros(2)) == Drift(0.0, 0.0, None)
    assert drift(np.zeros(2), np.ones(2)) == Drift(1.0, None, None)
    assert drift(np.zeros((0, 3)), np.zeros((0, 3))) == Drift(0.0, 0.0, None)


def test_drift_without_meaning_is_none():
    nothing = Drift(None, None, None)
    assert drift(np.array([1, np.nan]), np.array([1, 2.0])) == nothing
    assert drift(np.array([1, np.inf]), np.array([1, -np.inf])) == nothing
    assert drift(np.array([np.nan]), np.array([np.nan])) == nothing
    assert drift([{"a": 1}], [{"a": 2}]) == nothing
    assert drift(np.zeros(2), np.zeros(3)) == nothing
    assert drift(np.array([1, np.inf, np.nan]), np.array([2, np.inf, np.nan])).max_abs == pytest.approx(1)


# --- checking


def dense(bias=0.0, width=4, name="y"):
    proto = parse("g (float[batch, 4] x) => (float[batch, 4] y) { h = MatMul (x, v) a = MatMul (h, w) y = Add (a, b) }")
    rng = np.random.default_rng(0)
    v, w = rng.standard_normal((4, 512), "f"), rng.standard_normal((512, 4), "f")
    arrays = {"v": v[:, :width], "w": w[:width], "b": np.full(4, bias, "f")}
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    for node in proto.graph.node:
        node.output[:] = [name if o == "y" else o for o in node.output]
    proto.graph.output[0].name = name
    return proto


def test_drift_of_a_valid_result_is_reported():
    found = check(dense(), dense(bias=0.5))
    assert found.verified and found.reason is None
    assert found.drift["y"].max_abs == pytest.approx(0.5, rel=1e-3)
    assert found.feeds["x"].shape == (2, 4)


def test_given_inputs_are_used():
    x = np.full((3, 4), 2.0, "f")
    found = check(dense(), dense(bias=1.0), {"x": x})
    assert found.feeds["x"] is x
    assert found.drift["y"].max_abs == pytest.approx(1, rel=1e-3)
    assert check(dense(), dense(), input_shapes={"x": [7, 4]}).feeds["x"].shape == (7, 4)


def test_a_result_that_is_not_valid_is_refused():
    broken = dense()
    broken.graph.node.append(helper.make_node("Relu", ["nowhere"], ["z"]))
    with pytest.raises(VerificationError, match="not valid ONNX") as caught:
        check(dense(), broken)
    assert caught.value.exit_code == 3
    with pytest.raises(VerificationError):  # slices that do not fit together
        wrong = dense(width=3)
        wrong.graph.initializer[0].CopyFrom(dense(width=2).graph.initializer[0])
        check(dense(), wrong)


def test_a_fault_of_the_original_is_not_held_against_the_result():
    proto = dense()
    proto.graph.output.append(proto.graph.output[0])
    proto.graph.output[1].name = "h"
    proto.graph.output[1].type.tensor_type.shape.dim[1].dim_value = 5  # it has 512
    with pytest.raises(onnx.shape_inference.InferenceError):
        onnx.checker.check_model(proto, full_check=True)
    assert check(proto, proto).drift["y"].max_abs == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: setattr(g.output[0], "name", "h"), "outputs changed"),
        (lambda g: g.input.append(helper.make_tensor_value_info("more", 1, [1])), "inputs changed"),
        (lambda g: g.output[0].type.tensor_type.shape.dim.add(), "'y' has another type or rank"),
        (lambda g: setattr(g.input[0].type.tensor_type, "elem_type", TensorProto.DOUBLE), "'x' has another type"),
    ],
)
def test_a_changed_interface_is_refused(change, message):
    changed = dense()
    change(changed.graph)
    with pytest.raises(VerificationError, match=message):
        check(dense(), changed)


def test_an_output_that_shrank_is_refused():
    smaller = dense()
    smaller.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.ones((4, 3), "f"), "w"))
    smaller.graph.initializer[2].CopyFrom(numpy_helper.from_array(np.ones(3, "f"), "b"))
    smaller.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    with pytest.raises(VerificationError, match=r"'y' had shape \(2, 4\) and now has \(2, 3\)"):
        check(dense(), smaller)


def test_an_output_whose_shape_depends_on_values_may_change():
    before = parse("g (float[8] x) => (int64[1, n] y) { p = Relu (x) y = NonZero (p) }")
    after = parse("g (float[8] x) => (int64[1, n] y) { p = Abs (x) y = NonZero (p) }")
    found = check(before, after)
    assert found.verified and found.drift["y"] == Drift(None, None, None)


def test_a_batch_that_became_fixed_is_noticed():
    text = (
        "g (float[batch, 4] x) => (float[a, b] y) {{ s = Constant <value = int64[2] {{{}, 4}}> () y = Reshape (x, s) }}"
    )
    with pytest.raises(VerificationError, match="does not run"):
        check(parse(text.format(-1)), parse(text.format(1)))
    assert check(parse(text.format(1)), parse(text.format(1))).feeds["x"].shape == (1, 4)


def test_larger_inputs_are_tried_when_the_first_are_too_small():
    proto = parse(
        "g (float[1, 1, height, width] x) => (float[a, b, c, d] y) { y = MaxPool <kernel_shape = [200, 200]> (x) }"
    )
    found = check(proto, proto)
    assert found.verified and found.feeds["x"].shape == (1, 1, 224, 224)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("g (float[2] x) => (float[2] y) { y = my.Op (x) }", "does not load the original"),
        ("g (float[2] x) => (float[1] y) <int64[1] k = {9}> { y = Gather (x, k) }", "does not run the original"),
        ("g (seq(float[2]) x) => (seq(float[2]) y) { y = Identity (x) }", "inputs cannot be made"),
    ],
)
def test_an_original_that_cannot_be_run_leaves_it_unverified(text, reason):
    found = check(parse(text), parse(text))
    assert not found.verified and reason in found.reason and "\n" not in found.reason
    assert found.drift == {}


def test_an_unverified_result_is_still_held_to_its_interface():
    text = "g (float[2] x) => (float[2] {0}) {{ {0} = my.Op (x) }}"
    with pytest.raises(VerificationError, match="outputs changed"):
        check(parse(text.format("y")), parse(text.format("z")))


def test_shapes_that_do_not_fit_are_the_callers_fault():
    with pytest.raises(InputError, match="no input is called 'z'"):
        check(dense(), dense(), input_shapes={"z": [1]})


def external(folder, name="model.onnx", width=4):
    onnx.save(dense(width=width), folder / name, save_as_external_data=True, location=f"{name}.data", size_threshold=0)
    return folder / name


@pytest.mark.parametrize("version", [onnxruntime.__version__, "1.20.1"], ids=["this", "old"])
def test_a_model_partly_on_disk_is_checked_as_it_is_in_memory(tmp_path, monkeypatch, version):
    monkeypatch.setattr(onnxruntime, "__version__", version)
    path = external(tmp_path)
    model = load(path)
    assert check(path, model).drift["y"].max_abs == 0
    bias = model.proto.graph.initializer[2]
    model.set_array(bias, model.array(bias) + 2)
    assert check(path, model).drift["y"].max_abs == pytest.approx(2, rel=1e-3)
    save(model, tmp_path / "out.onnx")
    assert check(path, tmp_path / "out.onnx").drift["y"].max_abs == pytest.approx(2, rel=1e-3)
    model.proto.graph.node[0].input[0] = "nowhere"
    with pytest.raises(VerificationError, match="not valid ONNX"):
        check(path, model)


def test_a_model_over_the_limit_is_run_from_a_file(monkeypatch):
    monkeypatch.setattr(runtime, "fits_in_message", lambda proto: False)
    monkeypatch.setattr("onnxprune.model.save.fits_in_message", lambda proto: False)
    with runtime.runnable(dense(width=512)) as ready:
        assert isinstance(ready.payload, str)
        assert onnx.load(ready.payload, load_external_data=False).graph.initializer[0].external_data
    assert check(dense(), dense(bias=1.0)).drift["y"].max_abs == pytest.approx(1, rel=1e-3)


# --- comparing and tracing


def test_two_models_are_compared():
    small, large = dense(width=1), dense(bias=0.25)
    found = compare(large, dense(bias=0.75), runs=3)
    assert found.drift["y"].max_abs == pytest.approx(0.5, rel=1e-3)
    assert found.latency.before.wall > 0 and found.latency.after.wall > 0
    assert found.latency.runs == 3
    assert compare(large, small, feeds={"x": np.ones((1, 4), "f")}, runs=1).drift["y"].max_abs > 0.1


def test_a_comparison_needs_models_that_run():
    with pytest.raises(InputError, match="first model cannot be run"):
        compare(parse("g (float[2] x) => (float[2] y) { y = my.Op (x) }"), dense())
    with pytest.raises(InputError, match="second model cannot be run"):
        compare(dense(), parse("g (float[7,9] x) => (float[7,9] y) { y = Relu (x) }"))
    with pytest.raises(InputError, match="second model has no input or output 'x'"):
        compare(dense(), parse("g (float[2] z) => (float[2] y) { y = Relu (z) }"))


@pytest.mark.parametrize("version", [onnxruntime.__version__, "1.20.1"], ids=["this", "old"])
@pytest.mark.parametrize("on_disk", [False, True])
def test_shapes_are_traced_where_inference_cannot_tell(tmp_path, monkeypatch, on_disk, version):
    monkeypatch.setattr(onnxruntime, "__version__", version)
    model = load(external(tmp_path, width=512)) if on_disk else load(dense(width=512))
    before = model.proto.SerializeToString()
    shapes = traced_shapes(model, {"x": np.ones((3, 4), "f")})
    assert (shapes["x"], shapes["h"], shapes["a"], shapes["y"]) == ((3, 4), (3, 512), (3, 4), (3, 4))
    assert macs_from_shapes(model.proto, shapes) == 3 * 4 * 512 * 2
    assert model.proto.SerializeToString() == before


@pytest.mark.slow
def test_onnxruntime_is_not_imported_before_it_is_needed():
    code = "import sys, onnxprune.verification, onnxprune.cost; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    code = "import sys, onnxprune.errors; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_session_keeps_quiet_and_takes_options(capfd):
    proto = dense()
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(3, "f"), "unused"))  # onnxruntime warns of it
    one = session(proto, optimize=False, threads=1)
    assert (one.inputs, one.outputs) == (["x"], ["y"])
    assert capfd.readouterr().err == ""


def test_sequences_of_unequal_parts_have_no_distance(rng):
    """Outputs that are no arrays end no run."""
    text = """(float[N,8] x) => (seq(float) y) <float[8,16] w, float[16,6] v, int64[2] s>
        { h = MatMul(x, w) r = Relu(h) o = MatMul(r, v) y = SplitToSequence <axis = 1> (o, s) }"""
    model = build(text, constants={"s": [2, 4]})
    for calib in (None, {"x": rng.standard_normal((64, 8)).astype(np.float32)}):
        report = onnxprune.prune(model, 0.5, calib=calib, time=False).report
        assert report.verified and report.drift["y"] == Drift(None, None, None)
        assert "variance" not in str(report)
