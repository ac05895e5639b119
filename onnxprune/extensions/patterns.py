"""What `--pattern` asks for: channels to remove, or zeros in a pattern.

    channels        whole channels are removed
    weights=0.7     any elements, that share of each weight
    2:4             of every 4 consecutive weights along the reduction axis, 2 are kept
    4x1=0.5         blocks of 4 outputs by 1 input, that share of them

The share of a pattern that needs one may also come from the ratio. Further patterns may be added (`pattern`).
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from onnxprune.errors import InputError
from onnxprune.extensions.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHANNELS = "channels"
_HINT = "channels, weights=0.7, 2:4, or blocks such as 4x1=0.5"

Self = TypeVar("Self", bound="Pattern")


class Pattern(ABC):
    """A pattern of zeros; subclasses are frozen dataclasses.

    The arrays that methods are given are weights as they are stored, or as a solver holds them; the layout
    (`graph.operators.WeightLayout`) says which axes are those of inputs and outputs: ``layout.runs(array)`` is a view
    of shape (before, inputs, after), ``layout.matrices(array)`` one of shape (..., outputs, inputs).

    Attributes:
        share: Share of the elements that become zero; None where it is not given yet, or follows from the pattern.
        takes_share: Whether the pattern has a share. A pattern without is *local*: it takes as much of every group of
            `width` neighbouring inputs of an output.
        elementwise: Whether any element may be taken by itself, so that no layout is needed.
        by_columns: Whether whole groups of `width` inputs can be chosen from by themselves, apart from all others.
        repeats: Whether masks hold runs of bytes that come again, so that it pays to look for them when packing.
        width: Neighbouring inputs that are taken, or chosen from, together.
    """

    share: float | None = None
    takes_share: ClassVar[bool] = True
    elementwise: ClassVar[bool] = False
    by_columns: ClassVar[bool] = False
    repeats: ClassVar[bool] = False

    @property
    def width(self) -> int:
        """See the class."""
        return 1

    @property
    def kept(self) -> int | None:
        """How many of every group of `width` inputs are kept; None if not known beforehand."""
        return None

    @property
    def local(self) -> bool:
        """Whether as much is taken of every weight and every group of inputs, whatever their scores."""
        return not self.takes_share

    @classmethod
    @abstractmethod
    def parse(cls: type[Self], text: str) -> Self | None:
        """The pattern that a text stands for, ``=SHARE`` left away; None where it is another pattern's.

        Raises:
            InputError: It is a text of this pattern with impossible numbers.
        """

    @abstractmethod
    def __str__(self) -> str:
        """The text that `parse` reads."""

    @abstractmethod
    def mask(self, scores: NDArray[Any], layout: Any) -> NDArray[np.bool_]:
        """Mask of the elements of one weight that become zero.

        Args:
            scores: Importance of each element, not negative; shape of the weight.
            layout: How the weight is read; None for an elementwise pattern.
        """

    @abstractmethod
    def holds(self, zero: NDArray[np.bool_], layout: Any) -> bool:
        """Whether the zeros of a weight are in this pattern, whatever their share.

        Args:
            zero: Which elements are zero; shape of the weight.
            layout: How the weight is read.
        """

    def masks(
        self, scores: Sequence[NDArray[Any]], layouts: Sequence[Any], *, scaled: bool = True
    ) -> list[NDArray[np.bool_]]:
        """Masks of several weights that are ranked together; by default each by itself.

        Args:
            scores: Scores of the elements of each.
            layouts: How each reads as a matrix.
            scaled: Whether to divide the scores of each by their root mean square first; not where they compare.
        """
        return [self.mask(one, layout) for one, layout in zip(scores, layouts, strict=True)]

    def with_share(self: Self, share: float) -> Self:
        """The same pattern with another share."""
        changed: Self = dataclasses.replace(self, share=share)  # type: ignore[type-var]
        return changed


kinds: Registry[Callable[[str], Pattern | None]] = Registry(
    "pattern", entry_points="onnxprune.patterns", home="onnxprune.sparsity.patterns"
)
"""How the text of each kind of pattern is read."""

Class = TypeVar("Class", bound=type[Pattern])


def pattern(name: str) -> Callable[[Class], Class]:
    """Registers a class of patterns, for ``pattern=TEXT`` and ``--pattern TEXT`` with a text that its `parse` reads.

    Args:
        name: What the kind is called.
    """

    def register(cls: Class) -> Class:
        kinds.add(name, cls.parse)
        return cls

    return register


def parse(text: str) -> Pattern:
    """The pattern of zeros that a text stands for.

    Raises:
        InputError: It is none.
    """
    shape, equals, number = text.partition("=")
    share = _share(text, number) if equals else None
    found = next((p for p in (kinds.get(name)(shape) for name in kinds.names()) if p is not None), None)
    if found is None:
        raise InputError(f"unknown pattern {text!r}", _HINT)
    if share is None:
        return found
    if not found.takes_share:
        raise InputError(f"pattern {text!r} says twice how much", f"{found} says it by itself")
    return found.with_share(share)


def complete(given: str | Pattern) -> Pattern:
    """A pattern with a known share of zeros, from a pattern or its text.

    Raises:
        InputError: It does not, or it is no pattern.
    """
    if not isinstance(given, (str, Pattern)):
        raise InputError(f"pattern must be a text such as '2:4', not {given!r}", _HINT)
    found = parse(given) if isinstance(given, str) else given
    if found.share is None and found.takes_share:
        raise InputError(f"pattern {str(found)!r} does not say how much", f"{found}=0.7, say")
    return found


def read(given: str | Pattern | Iterable[str | Pattern], ratio: float | None) -> tuple[bool, Pattern | None]:
    """Whether channels are removed, and which pattern of zeros is asked for.

    Args:
        given: ``channels``, a pattern of zeros, or both.
        ratio: The share of channels to remove, or, where no channels are removed, of elements or blocks.

    Raises:
        InputError: One is no pattern, or the patterns and the ratio contradict each other.
    """
    texts = [given] if isinstance(given, (str, Pattern)) else _listed(given)
    channels = CHANNELS in texts
    zeros = [parse(text) if isinstance(text, str) else text for text in texts if text != CHANNELS]
    if len(zeros) > 1:
        raise InputError(
            f"patterns {str(texts[0])!r} and {str(texts[1])!r} both say which weights become zero",
            f"one of them, and {CHANNELS} beside it",
        )
    if not zeros:
        return True, None
    (found,) = zeros
    if not channels and ratio is not None:
        if found.share is not None or not found.takes_share:
            raise InputError(f"ratio and pattern {str(texts[0])!r} both say how much", "give one of them")
        found = found.with_share(ratio)
    return channels, complete(found)


def _listed(given: object) -> list[str | Pattern]:
    texts = list(given) if isinstance(given, Iterable) and not isinstance(given, (bytes, Mapping)) else []
    if not texts or not all(isinstance(text, (str, Pattern)) for text in texts):
        raise InputError(f"pattern must be a text such as '2:4', or a list of them, not {given!r}", _HINT)
    return texts


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
