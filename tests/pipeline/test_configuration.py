"""Configurations beside a language model are written with the sizes of the pruned one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from tests.ops.case import build
from tools.decoder_graph import Shape, decoder, random_weights

SHAPE = Shape(heads=8, keys=4, width=24, inner=40)
QUICK: dict[str, Any] = {"repair": "none", "time": False, "verify": False}
TEXT = {
    "model": {
        "vocab_size": SHAPE.vocabulary,
        "decoder": {
            "filename": "m.onnx",
            "hidden_size": SHAPE.width,
            "head_size": SHAPE.size,
            "num_attention_heads": SHAPE.heads,
            "num_key_value_heads": SHAPE.keys,
            "num_hidden_layers": SHAPE.layers,
        },
    },
    "search": {"max_length": 64, "num_beams": 8},
}

MIXED = ("inside", "kept"), ("outside", "all")
"""Options by which words go in and come out with different numbers."""


@pytest.fixture(params=["raw", "fused"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    onnx.save(decoder(SHAPE, random_weights(SHAPE), request.param), path)
    (tmp_path / "genai_config.json").write_text(json.dumps(TEXT))
    (tmp_path / "config.json").write_text(json.dumps({"intermediate_size": 40, "hidden_size": 24, "other": "é"}))
    return path


@pytest.mark.slow
def test_query_heads_and_inner_width(model: Path) -> None:
    """Only what changed is another number; the rest of the file is as it was."""
    out = model.parent / "out"
    out.mkdir()
    result = onnxprune.prune(model, 0.5, **QUICK)
    result.save(out / "small.onnx")
    wanted = json.loads(json.dumps(TEXT))
    wanted["model"]["decoder"] |= {"filename": "small.onnx", "num_attention_heads": 4}
    assert json.loads((out / "genai_config.json").read_text()) == wanted
    other = json.loads((out / "config.json").read_text())
    assert other == {"intermediate_size": 20, "hidden_size": 24, "other": "é"}
    assert f"wrote {out / 'genai_config.json'}: num_attention_heads 8 -> 4" in result.report.notes


@pytest.mark.slow
def test_width_and_key_heads(model: Path) -> None:
    out = model.parent / "out"
    out.mkdir()
    shrink = ["past_key", "present"]
    onnxprune.prune(model, 0.5, only=["embed"], **QUICK).save(out / "a.onnx")
    assert json.loads((out / "genai_config.json").read_text())["model"]["decoder"]["hidden_size"] == 12
    onnxprune.prune(model, 0.5, ignore=["embed.weight:1"], shrink=shrink, **QUICK).save(out / "b.onnx")
    told = json.loads((out / "b.genai_config.json").read_text())["model"]["decoder"]  # the other is of a.onnx
    assert (told["num_attention_heads"], told["num_key_value_heads"], told["head_size"]) in ((4, 2, 16), (4, 4, 16))


@pytest.mark.slow
def test_files_beside_the_original_stay(model: Path) -> None:
    before = {p.name: p.read_bytes() for p in model.parent.iterdir()}
    onnxprune.prune(model, 0.5, **QUICK).save(model.with_name("small.onnx"))
    assert {name: (model.parent / name).read_bytes() for name in before} == before
    assert (model.parent / "small.genai_config.json").exists()


@pytest.mark.slow
def test_configurations_of_other_things_are_left_alone(model: Path) -> None:
    """What says nothing of the model is not the model's."""
    model.with_name("genai_config.json").unlink()
    model.with_name("config.json").write_text(json.dumps({"port": 8080, "vocab_size": -1}))
    before = {p.name for p in model.parent.iterdir()}
    onnxprune.prune(model, 0.5, **QUICK).save(model.with_name("small.onnx"))
    assert {p.name for p in model.parent.iterdir()} == before | {"small.onnx"}


@pytest.mark.slow
def test_layers_of_several_sizes_are_named(model: Path) -> None:
    """No number is true of all layers."""
    result = onnxprune.prune(model, 0.5, only=[r"^layers\.0\.gate\.weight:1$"], **QUICK)
    result.save(model.with_name("small.onnx"))
    assert json.loads(model.with_name("small.config.json").read_text())["intermediate_size"] == 40
    assert any("intermediate_size left as it was: the layers have 20, 40" in note for note in result.report.notes)


@pytest.mark.slow
def test_a_smaller_vocabulary(model: Path) -> None:
    small = onnxprune.cut_vocabulary(model, np.arange(0, 32, 2), remap="outside")
    small.save(model.with_name("small.onnx"))
    assert json.loads(model.with_name("small.genai_config.json").read_text())["model"]["vocab_size"] == 16


@pytest.mark.parametrize(
    ("remap", "logits", "told"),
    [("outside", "kept", (16, 5)), ("inside", "kept", (16, 10)), ("outside", "all", None), ("inside", "all", None)],
)
def test_a_smaller_vocabulary_counts_what_comes_out(
    model: Path, remap: str, logits: str, told: tuple[int, int] | None
) -> None:
    """Ids are renumbered where they go in and come out as new ones; the width behind a map of ids is no other."""
    given = {"vocab_size": 32, "eos_token_id": 10, "hidden_size": 24}
    model.with_name("config.json").write_text(json.dumps(given))
    small = onnxprune.cut_vocabulary(model, np.arange(0, 32, 2), remap=remap, logits=logits, unknown=0)
    small.save(model.with_name("small.onnx"))
    written = model.with_name("small.config.json")
    wanted = None if told is None else given | {"vocab_size": told[0], "eos_token_id": told[1]}
    assert (json.loads(written.read_text()) if written.exists() else None) == wanted
    assert any("in two ways" in note for note in small.report.notes) == ((remap, logits) in MIXED)


@pytest.mark.parametrize(("remap", "words"), [("inside", 32), ("outside", 16)])
def test_the_words_of_a_model_that_gives_none(tmp_path: Path, remap: str, words: int) -> None:
    """An encoder has as many words as it takes."""
    encoder = build("""(int64[N,5] ids) => (float[N,5,24] y) <float[32,24] e, float[24,24] v>
        { x = Gather(e, ids)  y = MatMul(x, v) }""")
    onnx.save(encoder, tmp_path / "m.onnx")
    (tmp_path / "config.json").write_text('{"vocab_size": 32, "hidden_size": 24}')
    small = onnxprune.cut_vocabulary(tmp_path / "m.onnx", np.arange(0, 32, 2), remap=remap, unknown=0)
    small.save(tmp_path / "small.onnx")
    written = tmp_path / "small.config.json"
    assert (json.loads(written.read_text())["vocab_size"] if written.exists() else 32) == words


@pytest.mark.slow
def test_what_another_model_has_stays(model: Path) -> None:
    """A configuration of several models is changed in the part of the one that was pruned."""
    both = {"encoder": TEXT["model"]["decoder"] | {"filename": "encoder.onnx"}, **TEXT["model"]}
    model.with_name("genai_config.json").write_text(json.dumps({"model": both}))
    onnxprune.prune(model, 0.5, **QUICK).save(model.with_name("small.onnx"))
    told = json.loads(model.with_name("small.genai_config.json").read_text())["model"]
    assert told["encoder"] == both["encoder"] and told["decoder"]["num_attention_heads"] == 4


@pytest.mark.slow
def test_a_file_that_is_there_stays(model: Path) -> None:
    """In another folder a configuration is replaced only where it is of the model that is written there."""
    out = model.parent / "out"
    out.mkdir()
    (out / "config.json").write_text("{}")
    (out / "theirs.onnx").write_bytes(b"")
    onnxprune.prune(model, 0.5, **QUICK).save(out / "small.onnx")
    assert (out / "config.json").read_text() == "{}" and (out / "small.config.json").exists()


@pytest.mark.slow
def test_what_is_still_true_is_not_written(model: Path) -> None:
    onnxprune.prune(model, 0.5, only=[r"^layers\.\d\.gate\.weight:1$"], **QUICK).save(model.with_name("small.onnx"))
    assert model.with_name("small.config.json").exists()
    model.with_name("config.json").write_text('{"hidden_size": 24}')
    onnxprune.prune(model, 0.5, **QUICK).save(model.with_name("other.onnx"))
    assert not model.with_name("other.config.json").exists()
