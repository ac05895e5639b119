"""A smaller vocabulary: the same on kept ids, with tied, untied and quantised output layers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import onnxprune
from onnxprune.calibration.token_ids import counted, listed, most_frequent, special_ids
from onnxprune.errors import InputError
from tests.ops.case import build
from tests.support.commands import Cli
from tests.support.oracle import session
from tools.decoder_graph import Shape, decoder, feeds, random_weights

KEPT = np.array([0, 2, 3, 7, 11, 30])
IDS = np.array([[7, 0, 30, 30, 2], [11, 3, 2, 0, 7]])


def words(kind: str = "plain", *, tied: bool = False) -> onnx.ModelProto:
    shape = Shape(tied=tied, layers=1)
    return decoder(shape, random_weights(shape), kind)


def logits(model: onnx.ModelProto, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = session(model).run(["logits"], feeds(model, ids))[0]
    return found


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["plain", "packed"])
def test_kept_ids_mean_what_they_meant(kind: str, tied: bool) -> None:
    """Old ids go in, and values of kept ids come out; one table maps ids, and both matrices lose the others."""
    model = words(kind, tied=tied)
    small = onnxprune.cut_vocabulary(model, KEPT, unknown=2)
    np.testing.assert_allclose(logits(small.model, IDS), logits(model, IDS)[..., KEPT], atol=1e-5)
    width = Shape().width
    assert small.report.params.before - small.report.params.after == (1 if tied else 2) * 26 * width
    gathers = [n for n in small.model.graph.node if n.op_type == "Gather" and "input_ids" in n.input]
    assert len(gathers) == 1 and small.report.verified


def test_dropped_ids_are_the_unknown_one() -> None:
    small = onnxprune.cut_vocabulary(words(), KEPT, unknown=2)
    np.testing.assert_array_equal(
        logits(small.model, np.array([[5, 7, 31]])), logits(small.model, np.array([[2, 7, 2]]))
    )


def test_values_in_their_old_places() -> None:
    """Of dropped ids they are minus infinity, so that none of these is ever chosen."""
    model = words()
    small = onnxprune.cut_vocabulary(model, KEPT, unknown=2, logits="all")
    before, after = logits(model, IDS), logits(small.model, IDS)
    assert list(small.model.graph.output) == list(model.graph.output)
    np.testing.assert_allclose(after[..., KEPT], before[..., KEPT], atol=1e-5)
    assert np.isneginf(np.delete(after, KEPT, axis=-1)).all()


def test_values_in_their_old_places_where_no_shape_is_declared() -> None:
    model = words()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    small = onnxprune.cut_vocabulary(model, KEPT, unknown=2, logits="all")
    np.testing.assert_allclose(logits(small.model, IDS)[..., KEPT], logits(model, IDS)[..., KEPT], atol=1e-5)


def test_new_ids_outside() -> None:
    model = words()
    small = onnxprune.cut_vocabulary(model, KEPT, remap="outside")
    new = np.searchsorted(KEPT, IDS)
    np.testing.assert_allclose(logits(small.model, new), logits(model, IDS)[..., KEPT], atol=1e-5)
    assert json.loads(small.map_json()) == {"kept": KEPT.tolist(), "unknown": None, "old_size": 32}


MASKED = """(int64[N,5] ids) => (float[N,5,9] y) <float[9,4] e, float[4,9] v, int64 pad>
    { x = Gather(e, ids)  p = Equal(ids, pad)  n = Not(p)  m = Cast <to = 1> (n)  a = Constant <value = int64[1] {2}> ()
      u = Unsqueeze(m, a)  z = Mul(x, u)  y = MatMul(z, v) }"""


def test_ids_that_are_compared_are_remapped_inside_only() -> None:
    """The padding id is compared with the old ids."""
    model = build(MASKED, constants={"pad": 3})
    ids = np.array([[3, 4, 8, 3, 0]])
    small = onnxprune.cut_vocabulary(model, [0, 3, 4, 8], unknown=0)
    (before,), (after,) = (session(m).run(["y"], {"ids": ids}) for m in (model, small.model))
    np.testing.assert_allclose(after, before[..., [0, 3, 4, 8]], atol=1e-5)
    with pytest.raises(InputError, match="compares ids"):
        onnxprune.cut_vocabulary(model, [0, 3, 4, 8], remap="outside")


def test_what_is_tied_to_the_interface_is_refused() -> None:
    """Probabilities over all words change where words go."""
    model = build("""(int64[N,5] ids) => (float[N,5,9] y) <float[9,4] e, float[4,9] v>
        { x = Gather(e, ids)  l = MatMul(x, v)  y = Softmax(l) }""")
    with pytest.raises(InputError, match="cannot get smaller: Softmax"):
        onnxprune.cut_vocabulary(model, [0, 1, 2], unknown=0)


def test_a_model_without_output_layer_loses_rows_only() -> None:
    model = build("""(int64[N,5] ids) => (float[N,5,3] y) <float[9,4] e, float[4,3] v>
        { i = Cast <to = 6> (ids)  x = Gather(e, i)  y = MatMul(x, v) }""")
    small = onnxprune.cut_vocabulary(model, [1, 4, 8], unknown=4)
    assert {t.name: list(t.dims) for t in small.model.graph.initializer}["e"] == [3, 4]
    assert small.report.outputs == [] and small.report.verified


def test_two_classes_are_not_the_two_segments_of_a_text() -> None:
    """The vocabulary of a classifier of texts is its largest table, whatever its number of classes."""
    model = build(
        """(int64[N,5] ids, int64[N,5] segments) => (float[N,2] y) <float[9,4] e, float[2,4] s, float[4,2] v, int64[1] one>
        { h = Gather(e, ids)  k = Gather(s, segments)  a = Add(h, k)  m = ReduceMean <keepdims = 0> (a, one)
          y = MatMul(m, v) }""",
        constants={"one": [1]},
    )
    small = onnxprune.cut_vocabulary(model, np.arange(6), remap="outside")
    assert (small.report.tokens.before, small.report.tokens.after) == (9, 6)


def test_counts(tmp_path: Path) -> None:
    """The most frequent ids stay, and those that always do are among the number."""
    np.savez(tmp_path / "counts.npz", counts=np.array([5, 0, 9, 1, 9]))
    np.savez(tmp_path / "texts.npz", a=np.array([[0, 2, 2], [4, 4, 3]]), mask=np.ones(3))
    counts = counted(tmp_path / "counts.npz", 5)
    assert most_frequent(counts, None, np.array([1])).tolist() == [0, 1, 2, 3, 4]
    assert most_frequent(counts, 3, np.array([1])).tolist() == [1, 2, 4]
    assert counted(tmp_path / "texts.npz", 5).tolist() == [1, 0, 2, 1, 2]
    np.savez(tmp_path / "shares.npz", counts=np.array([0.5, 0.0, 0.2, 0.25, 0.05]))
    assert most_frequent(counted(tmp_path / "shares.npz", 5), 2, np.array([], np.int64)).tolist() == [0, 3]
    (tmp_path / "keep.txt").write_text("3 # a word\n\n1\n")
    assert listed(tmp_path / "keep.txt") == [3, 1]


def test_special_words_stay(tmp_path: Path) -> None:
    """Files beside the model name them, and the unknown word."""
    (tmp_path / "genai_config.json").write_text('{"model": {"eos_token_id": [30, 31], "pad_token_id": 29}}')
    vocabulary = {"model": {"unk_token": "?", "vocab": {"?": 4}}, "added_tokens": [{"id": 28, "special": True}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(vocabulary))
    assert special_ids(tmp_path, 32)[0].tolist() == [4, 28, 29, 30, 31]
    onnx.save(words(), tmp_path / "m.onnx")
    small = onnxprune.cut_vocabulary(tmp_path / "m.onnx", [1])
    assert small.kept.tolist() == [1, 4, 28, 29, 30, 31] and small.report.unknown == 4


@pytest.mark.slow
def test_the_command_writes_model_and_map(cli: Cli, tmp_path: Path) -> None:
    model, out = tmp_path / "m.onnx", tmp_path / "small.onnx"
    onnx.save(words(), model)
    np.savez(tmp_path / "texts.npz", ids=np.array([1, 1, 2, 5]))
    np.savez(tmp_path / "more.npz", ids=np.array([1, 9, 2, 2]))
    command = ["vocabulary", str(model), str(tmp_path / "texts.npz"), "--unknown", "0", "--tokens", "2"]
    ended = cli(*command, "--check", str(tmp_path / "more.npz"), "-o", str(out), "--json")
    assert ended.code == 0
    told = json.loads(ended.out)
    assert told["tokens"] == {"before": 32, "after": 2} and told["dropped_share"] == 0.75
    assert json.loads((tmp_path / "small.ids.json").read_text())["kept"] == [0, 1]
    assert onnx.load(out).graph.output[0].type.tensor_type.shape.dim[2].dim_value == 2
    assert cli(*command, "-o", str(out)).out.startswith(f"{model} -> {out}\nids ")
