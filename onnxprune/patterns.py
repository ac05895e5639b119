"""What `--pattern` asks for: channels that go, or zeros in a pattern.

    channels        whole channels are removed
    weights=0.7     any elements, that share of each weight
    2:4             of every 4 consecutive weights along the reduction axis, 2 stay
    4x1=0.5         blocks of 4 outputs by 1 input, that share of them

The share of a pattern that needs one may also come from the ratio.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from onnxprune.errors import InputError

CHANNELS = "channels"
_HINT = "channels, weights=0.7, 2:4, or blocks such as 4x1=0.5"
LARGEST = 4096
"""No block and no group of an N:M pattern is longer."""


@dataclass(frozen=True)
class Pattern:
    """A pattern of zeros.

    Attributes:
        kind: ``weights`` for any elements, ``n:m``, or ``blocks``.
        share: Share of the elements or blocks that goes; None where nothing says so yet.
        n: How many of a group stay.
        m: Consecutive inputs in a group.
        rows: Outputs of a block.
        columns: Inputs of a block.
    """

    kind: Literal["weights", "n:m", "blocks"]
    share: float | None = None
    n: int = 0
    m: int = 0
    rows: int = 1
    columns: int = 1

    def __str__(self) -> str:
        if self.kind == "n:m":
            return f"{self.n}:{self.m}"
        return "weights" if self.kind == "weights" else f"{self.rows}x{self.columns}"


def parse(text: str) -> Pattern:
    """The pattern of zeros that a text stands for.

    Raises:
        InputError: It is none.
    """
    shape, equals, number = text.partition("=")
    share = _share(text, number) if equals else None
    if shape == "weights":
        return Pattern("weights", share)
    if match := re.fullmatch(r"([0-9]{1,6}):([0-9]{1,6})", shape):
        n, m = int(match[1]), int(match[2])
        if equals:
            raise InputError(f"pattern {text!r} says twice how much", f"{n}:{m} keeps {n} of {m}")
        if not 0 < n < m <= LARGEST:
            raise InputError(
                f"pattern {text!r} must keep at least 1 and fewer than all, of at most {LARGEST}", "2:4 keeps 2 of 4"
            )
        return Pattern("n:m", n=n, m=m)
    if match := re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", shape):
        rows, columns = int(match[1]), int(match[2])
        if not (0 < rows <= LARGEST and 0 < columns <= LARGEST):
            raise InputError(f"the sides of the blocks of pattern {text!r} must be from 1 to {LARGEST}", _HINT)
        return Pattern("blocks", share, rows=rows, columns=columns)
    raise InputError(f"unknown pattern {text!r}", _HINT)


def read(texts: Sequence[str], ratio: float | None) -> tuple[bool, Pattern | None]:
    """Whether channels go, and which pattern of zeros is asked for.

    Args:
        texts: As on the command line.
        ratio: The ratio, which says how many channels go, or, where no channels do, how many elements or blocks.

    Raises:
        InputError: A text is no pattern, or the patterns and the ratio contradict each other.
    """
    channels = CHANNELS in texts
    zeros = [parse(text) for text in texts if text != CHANNELS]
    if len(zeros) > 1:
        raise InputError(
            f"patterns {texts[0]!r} and {texts[1]!r} both say which weights become zero",
            f"one of them, and {CHANNELS} beside it",
        )
    if not zeros:
        return True, None
    (pattern,) = zeros
    if not channels and ratio is not None:
        if pattern.share is not None or pattern.kind == "n:m":
            raise InputError(f"ratio and pattern {texts[0]!r} both say how much", "give one of them")
        pattern = replace(pattern, share=ratio)
    if pattern.share is None and pattern.kind != "n:m":
        raise InputError(f"pattern {str(pattern)!r} does not say how much", f"{pattern}=0.7, say")
    return channels, pattern


def _share(text: str, number: str) -> float:
    try:
        share = float(number)
    except ValueError:
        raise InputError(f"pattern {text!r} does not say how much", "weights=0.7, say") from None
    if not 0 <= share < 1:
        raise InputError(
            f"the share of pattern {text!r} must be at least 0 and below 1",
            "weights=0.7 sets 70% of the elements to zero",
        )
    return share
