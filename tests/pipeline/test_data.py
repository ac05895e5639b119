"""Calibration samples are joined to batches only where a model makes of a batch what it makes of its samples."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

import onnxprune
from onnxprune.calibration import Samples
from onnxprune.calibration.synthetic import synthetic
from onnxprune.errors import InputError
from onnxprune.model.model import Model
from onnxprune.options import Calibration
from onnxprune.pipeline.data import FirstBatches, open_data
from tests.ops.case import build
from tests.support.lanes import spread
from tests.support.paths import MODELS

RESHAPED = "g (float[N,8] x) => (float[N,8] y) <int64[2] s = {1, 8}> { y = Reshape(x, s) }"
"""Traced with one sample: the declared batch axis does not work."""
MIXED = "g (float[N,8] x) => (float[N,8] y) { s = Softmax<axis = 0>(x) y = Add(s, s) }"
CENTRED = "g (float[N,8] x) => (float[N,8] y) { m = ReduceMean<axes = [0]>(x) y = Sub(x, m) }"
"""Outputs of the same shape, of other values: samples are normalised over each other."""
SUMMED = "g (float[N,8] x) => (float[8] y) { y = ReduceSum<keepdims = 0>(x, a) }"
PAIRS = "g (float[N,8] x) => (float[A,8] y) <int64[2] s = {2, -1}> { y = Reshape(x, s) }"
CLIPS = """g (float[N,8] x) => (float[N,8] y) <int64[3] s = {-1, 4, 8}, int64[2] t = {-1, 8}> {
    f = Reshape(x, s) m = ReduceMean<axes = [1]>(f) z = Add(f, m) y = Reshape(z, t) }"""
WELL = {
    "plain": "g (float[N,8] x) => (float[N,8] y) { y = Relu(x) }",
    "batch elsewhere": "g (float[N,8] x) => (float[8,N] y) { y = Transpose(x) }",
    "a constant output": "g (float[N,8] x) => (float[N,8] y, float[2] z) <float[2] c = {1, 2}> { y = Relu(x) z = Relu(c) }",
    "class ids": "g (float[N,8] x) => (int64[N,1] y) { y = ArgMax<axis = 1>(x) }",
    "not finite": "g (float[N,8] x) => (float[N,8] y) { y = Log(x) }",
}


def model(text: str) -> Model:
    return Model(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 13]>\n{text}'))


def random_weights(text: str) -> Model:
    return Model(build(text.removeprefix("g ")))


def opened(text: str, *, count: int = 20) -> list[int]:
    """Sizes of the batches that are made of some samples."""
    data = {"x": np.random.default_rng(0).standard_normal((count, 8)).astype("f")}
    split = open_data(model(text), Calibration(data))
    assert split is not None
    return [len(feeds["x"]) for part in (split.fit, split.held) for feeds in part.batches()]


@pytest.mark.parametrize("text", [RESHAPED, MIXED, CENTRED])
def test_samples_that_cannot_be_joined_are_run_one_by_one(text: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "onnxprune"):
        assert opened(text) == [1] * 20
    (record,) = caplog.records
    assert "one by one" in record.getMessage()
    assert opened(text, count=1) == [1, 1]


def test_frames_that_a_model_takes_in_clips_only_are_run_in_clips(caplog: pytest.LogCaptureFixture) -> None:
    """The model folds 4 frames into one; 45 samples are 5 clips of 8, one of which is held out."""
    with caplog.at_level(logging.WARNING, "onnxprune"):
        assert opened(CLIPS, count=45) == [8] * 5
    (record,) = caplog.records
    assert "8 at a time, since a single one fails" in record.getMessage()


@pytest.mark.parametrize("name", WELL)
def test_samples_that_can_be_joined_are(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "onnxprune"):
        assert opened(WELL[name]) == [17, 3]
    assert not caplog.records


def test_what_runs_neither_way_is_told_as_before() -> None:
    with pytest.raises(InputError, match="Reshape"):
        opened(RESHAPED.replace("{1, 8}", "{3, 9}"))


@pytest.mark.parametrize(
    ("text", "sizes"), [(RESHAPED, {1}), (CENTRED, {1}), (WELL["plain"], {8, 32}), (CLIPS, {64, 256})]
)
def test_synthetic_samples_are_joined_where_that_changes_nothing(text: str, sizes: set[int]) -> None:
    assert {len(feeds["x"]) for feeds in synthetic(model(text), 40)} == sizes


@pytest.mark.slow
@pytest.mark.parametrize("lengths", spread(["H,W", "32,32"]))
def test_activations_of_synthetic_batches_are_bounded(lengths: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention over pixels: of 64 x 64 ones a sample makes 2**24 products, of 32 x 32 ones 2**20."""
    monkeypatch.setattr("onnxprune.calibration.synthetic.MAX_ACTIVATIONS", 2**22)
    attention = f"""g (float[N,3,{lengths}] x) => (float[N,P,P] y) <int64[3] s = {{0, 3, -1}}> {{
        f = Reshape(x, s) t = Transpose<perm = [0, 2, 1]>(f) y = MatMul(t, f) }}"""
    assert [feeds["x"].shape for feeds in synthetic(model(attention), 10)] == [(n, 3, 32, 32) for n in (4, 4, 2)]


def test_samples_of_large_activations_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.calibration.synthetic.MAX_ACTIVATIONS", 2**10)
    for width, count in ((2**8, 64), (2**11, 16)):
        wide = f"g (float[1,8] x) => (float[1,{width}] y) <float[8,{width}] w> {{ y = MatMul(x, w) }}"
        assert len(synthetic(random_weights(wide), varied=True)) == count


def traced() -> onnx.ModelProto:
    """A trained classifier as an exporter writes it that bakes its one sample into a Reshape; the axis stays free."""
    proto = onnx.load(MODELS / "pt_resnet_bn.onnx")
    shape = onnx.numpy_helper.from_array(np.array([1, 10]), "one_sample")
    out = proto.graph.output[0].name
    for node in proto.graph.node:
        node.output[:] = ["raw" if name == out else name for name in node.output]
    proto.graph.initializer.append(shape)
    proto.graph.node.append(onnx.helper.make_node("Reshape", ["raw", "one_sample"], [out]))
    return proto


@pytest.mark.slow
def test_a_model_that_takes_one_sample_is_calibrated(tmp_path: Path) -> None:
    calib = np.load(MODELS / "digits_calib.npz")["input"][:34]
    report = onnxprune.prune(traced(), ratio=0.3, calib={"input": calib}).report
    assert report.verified and any(entry.penalty is not None for entry in report.repair)
    onnx.save(traced(), tmp_path / "m.onnx")
    np.savez(tmp_path / "c.npz", input=calib)
    command = [sys.executable, "-m", "onnxprune", "m.onnx", "--ratio", "0.3", "--calib", "c.npz", "--repair", "none"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.count("one by one") == 1, done.stderr


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        (1024, {}, None),
        (1025, {}, "1,024 of 1,025 calibration samples are used; samples=... allows more"),
        (1025, {"samples": 1025}, None),
        (1025, {"samples": 30}, None),
        (1025, {"samples": 1024}, None),
    ],
)
def test_a_default_limit_is_said_where_it_cuts(data: int, options: dict[str, int], said: str | None) -> None:
    """Of arrays and of a stream, which nobody has counted."""
    rows = np.random.default_rng(0).standard_normal((data, 8)).astype("f")
    split = open_data(model(WELL["plain"]), Calibration({"x": rows}, **options))
    assert split is not None and split.cut == said
    assert (split.fit.count or 0) + (split.held.count or 0) == min(data, options.get("samples", 1024))
    stream = open_data(model(WELL["plain"]), Calibration(({"x": row[None]} for row in rows), **options))
    assert stream is not None and (stream.cut is None) is (bool(options))
    if stream.cut is not None:
        assert (
            stream.cut
            == "the first 1,024 calibration samples are used, whether or not there are others; samples=... allows more"
        )


def test_a_model_with_a_large_batch_is_not_refused_for_a_default() -> None:
    wide = model("g (float[2000,2] x) => (float[2000,2] y) { y = Relu(x) }")
    split = open_data(wide, Calibration({"x": np.zeros((2000, 2), "f")}))
    assert split is not None and split.fit.count == 2000


@pytest.mark.slow
def test_the_report_says_that_samples_were_cut() -> None:
    rows = np.random.default_rng(0).random((1100, 64)).astype("f")
    report = onnxprune.prune(MODELS / "sk_mlp.onnx", 0.2, calib={"input": rows}, repair="none", time=False).report
    assert report.notes == ["1,024 of 1,100 calibration samples are used; samples=... allows more"]
    assert report.warnings == [w for w in report.warnings if "samples are used" not in w]


def test_samples_along_another_axis_are_counted() -> None:
    """Steps come first: a sample of 100 steps is one."""
    calibration = Calibration(data=[{"x": np.zeros((100, 1, 2), np.float32)} for _ in range(5)])
    model = build("(float[T,N,2] x) => (float[T,N,2] y) { y = Relu(x) }")
    data = open_data(Model(model), calibration)
    assert data is not None and isinstance(data.fit, Samples)
    assert len(list(FirstBatches(data.fit.in_batches(1), 3))) == 3


def test_samples_verify_a_model_that_takes_no_other_size() -> None:
    """Its free length is none: it was traced with 37, which is not guessed."""
    fixed = build(
        """(float[N,T,3] x) => (float[N,37,2] y) <float[3,6] w, float[6,2] v, int64[3] s>
        { h = MatMul(x, w)  r = Reshape(h, s)  y = MatMul(r, v) }""",
        constants={"s": [-1, 37, 6]},
    )
    data = {"x": np.random.default_rng(0).standard_normal((20, 37, 3)).astype("f")}
    assert not onnxprune.prune(fixed, 0.5, repair="none", time=False).report.verified
    report = onnxprune.prune(fixed, 0.5, repair="none", calib=data).report
    assert report.verified and report.unverified_because is None
    assert not any("not verified" in line for line in report.warnings)
    plan = onnxprune.plan(onnxprune.analyze(fixed), 0.5, repair="none")
    assert onnxprune.apply(plan, fixed, calib=data).report.verified
