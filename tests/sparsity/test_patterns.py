"""What `--pattern` may say."""

from __future__ import annotations

import pytest

from onnxprune.errors import InputError
from onnxprune.extensions.patterns import Pattern, parse, read
from onnxprune.sparsity.patterns import Blocks, NOfM, Unstructured


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("weights=0.7", Unstructured(0.7)),
        ("weights", Unstructured()),
        ("2:4", NOfM(2, 4)),
        ("7:16", NOfM(7, 16)),
        ("4x1=0.5", Blocks(4, 1, 0.5)),
        ("1x4", Blocks(1, 4)),
    ],
)
def test_read(text: str, pattern: Pattern) -> None:
    assert parse(text) == pattern
    assert text.startswith(str(pattern))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("weights=1", "below 1"),
        ("weights=-0.1", "below 1"),
        ("weights=nan", "below 1"),
        ("weights=", "how much"),
        ("4:4", "fewer than all"),
        ("0:4", "at least 1"),
        ("2:9999999", "unknown"),
        ("2:9999", "of at most"),
        ("2:4=0.5", "twice"),
        ("0x4", "sides"),
        ("4x4=x", "how much"),
        ("blocks", "unknown"),
        ("2:", "unknown"),
        ("", "unknown"),
    ],
)
def test_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse(text)


def test_with_a_ratio() -> None:
    """The ratio is that of the channels where there are any, else that of a pattern that has none."""
    assert read(["channels"], 0.5) == (True, None)
    assert read(["channels", "2:4"], 0.3) == (True, NOfM(2, 4))
    assert read(["4x1", "channels"][:1], 0.3) == (False, Blocks(4, 1, 0.3))
    for texts in (["2:4"], ["weights=0.5"]):
        with pytest.raises(InputError, match="both say how much"):
            read(texts, 0.5)
    for texts in (["weights"], ["channels", "4x1"]):
        with pytest.raises(InputError, match="does not say how much"):
            read(texts, None)
    with pytest.raises(InputError, match="both say which"):
        read(["2:4", "weights=0.5"], None)
