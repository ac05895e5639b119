"""Masks of zeros as they are stored in a plan: packed bits, compressed, base64."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import PlanError
from onnxprune.extensions.patterns import Pattern


class ZeroEntry(Mapping[str, Any]):
    """The entry of a tensor in `Plan.zeroed`; its mask is made and packed when it is asked for."""

    def __init__(self, pattern: Pattern, ratio: float, mask: Callable[[], NDArray[np.bool_]]) -> None:
        """Packs nothing yet.

        Args:
            pattern: The pattern of the zeros.
            ratio: The share of zeros.
            mask: Returns which elements are zero; shape of the tensor.
        """
        self._known: dict[str, Any] = {"pattern": str(pattern), "ratio": ratio, "mask": None}
        self._pattern, self._mask = pattern, mask

    def __getitem__(self, key: str) -> Any:
        if key == "mask" and self._known[key] is None:
            self._known[key] = pack_mask(self._mask(), repeats=self._pattern.repeats)
        return self._known[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def pack_mask(mask: NDArray[np.bool_], *, repeats: bool = False) -> str:
    """A boolean array as text, see `Plan.zeroed`.

    Args:
        mask: The array.
        repeats: Whether to look for runs of bytes that come again. Only blocks have them; without, packing is several
            times faster and the text no longer.
    """
    packer = zlib.compressobj(1, strategy=zlib.Z_DEFAULT_STRATEGY if repeats else zlib.Z_HUFFMAN_ONLY)
    return base64.b64encode(packer.compress(np.packbits(mask.ravel()).tobytes()) + packer.flush()).decode()


def unpack_mask(text: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The inverse of `pack_mask`; raises PlanError where the text does not hold such an array."""
    size = int(np.prod(shape))
    bits = _bits(text, size)
    if len(bits) != (size + 7) // 8:
        raise PlanError("a mask of the plan has another size than its tensor")
    return np.unpackbits(bits, count=size).astype(bool).reshape(shape)


def has_more(text: str, size: int) -> bool:
    """Whether a mask as text has more elements than that; those within a byte do not count."""
    return len(_bits(text, size)) > (size + 7) // 8


def _bits(text: str, size: int) -> NDArray[np.uint8]:
    """The packed bits of a mask, one byte more than it should have at most."""
    try:
        packed = base64.b64decode(text, validate=True)
        # It may unpack to anything.
        return np.frombuffer(zlib.decompressobj().decompress(packed, (size + 7) // 8 + 1), np.uint8)
    except (ValueError, zlib.error):
        raise PlanError("a mask of the plan is not readable") from None
