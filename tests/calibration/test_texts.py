"""Text files calibrate language models, by the tokenizer beside the model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.calibration import open_samples
from onnxprune.errors import InputError
from tests.ops.case import build
from tools.decoder_graph import Shape, decoder, random_weights

pytest.importorskip("tokenizers", reason="the tokenizers package is an extra")
WORDS = ["<unk>", "<s>", "a", "b", "c", "d"]
LOOKUP = "(int64[N,4] ids) => (float[N,4,3] y) <float[6,3] e> { y = Gather(e, ids) }"
ENCODER = """(int64[N,L] ids, int64[N,L] attention_mask, int64[N,L] token_type_ids) => (float[N,L,3] y)
    <float[6,4] e, float[2,4] t, float[4,3] v, int64[1] two>
    { x = Gather(e, ids)  s = Gather(t, token_type_ids)  h = Add(x, s)  m = Cast <to = 1> (attention_mask)
      u = Unsqueeze(m, two)  z = Mul(h, u)  y = MatMul(z, v) }"""


def tokenizer(folder: Path) -> None:
    """Words between spaces, and the beginning of a text before each."""
    first = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    content = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [first, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "model": {"type": "WordLevel", "vocab": {w: i for i, w in enumerate(WORDS)}, "unk_token": "<unk>"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


def test_paragraphs_become_ids_that_follow_each_other(tmp_path: Path) -> None:
    """What the tokenizer puts before a text stands before each paragraph."""
    tokenizer(tmp_path)
    (tmp_path / "t.txt").write_text("a b\nc\n\n \nd x a\n", encoding="utf-8")
    model = build(LOOKUP)
    (feed,) = open_samples(tmp_path / "t.txt", model)
    np.testing.assert_array_equal(feed["ids"], [[1, 2, 3, 4], [1, 5, 0, 2]])


def test_masks_and_segments_are_made_beside_the_ids(tmp_path: Path) -> None:
    tokenizer(tmp_path)
    (tmp_path / "t.txt").write_text("a b c d\n\n" * 64, encoding="utf-8")
    (feed,) = open_samples(tmp_path / "t.txt", build(ENCODER, constants={"two": 2}))
    assert {name: array.shape for name, array in feed.items()} == dict.fromkeys(feed, (2, 128))
    np.testing.assert_array_equal(feed["ids"].ravel(), [1, 2, 3, 4, 5] * 51 + [1])
    assert feed["attention_mask"].all() and not feed["token_type_ids"].any()


def test_a_decoder_is_calibrated_by_a_text(tmp_path: Path) -> None:
    """The tokenizer is looked for beside the model, wherever the text is; caches begin empty."""
    shape, texts = Shape(layers=1), tmp_path / "elsewhere"
    texts.mkdir()
    tokenizer(tmp_path)
    onnx.save(decoder(shape, random_weights(shape), "raw"), tmp_path / "m.onnx")
    (texts / "t.txt").write_text("a b c d\n\n" * 400, encoding="utf-8")
    result = onnxprune.prune(tmp_path / "m.onnx", 0.25, calib=texts / "t.txt", repair="none", time=False, verify=False)
    assert result.report.calibration is not None
    assert result.report.calibration.inputs["input_ids"].samples == 2000 // 128


@pytest.mark.parametrize(
    ("files", "text", "said"),
    [
        ((), "a", "no tokenizer.json beside the model"),
        (("tokenizer.json",), "a", "is no tokenizer"),
        ((), None, "cannot be read as text"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, files: tuple[str, ...], text: str | None, said: str) -> None:
    for name in files:
        (tmp_path / name).write_text("{}", encoding="utf-8")
    if text is None:
        tokenizer(tmp_path)
    (tmp_path / "t.txt").write_bytes(b"\xff\xfe\x00" if text is None else text.encode())
    with pytest.raises(InputError, match=said):
        open_samples(tmp_path / "t.txt", build(LOOKUP))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ("float[N,4] ids", "no input holds the ids of a text"),
        ("int64[N,4] ids, int64[N,4] more", "2 inputs may hold the ids of a text"),
    ],
)
def test_ids_need_one_input(tmp_path: Path, inputs: str, said: str) -> None:
    tokenizer(tmp_path)
    (tmp_path / "t.txt").write_text("a b c d", encoding="utf-8")
    with pytest.raises(InputError, match=said):
        open_samples(tmp_path / "t.txt", build(f"({inputs}) => (float[N,4] y) {{ y = Cast <to = 1> (ids) }}"))


def test_a_text_must_fill_a_sample(tmp_path: Path) -> None:
    tokenizer(tmp_path)
    (tmp_path / "t.txt").write_text("a b", encoding="utf-8")
    with pytest.raises(InputError, match="3 ids, and a sample has 4"):
        open_samples(tmp_path / "t.txt", build(LOOKUP))


def test_without_tokenizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    tokenizer(tmp_path)
    (tmp_path / "t.txt").write_text("a b c d", encoding="utf-8")
    with pytest.raises(InputError, match="needs tokenizers"):
        open_samples(tmp_path / "t.txt", build(LOOKUP))
