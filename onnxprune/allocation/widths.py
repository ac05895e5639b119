"""Which counts of kept units leave the widths of layers multiples of a number.

The width of a layer is how many input or output channels it has. One unit of a group may be several channels of it: a
head of 64, or one channel in each of 8 groups of a convolution.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from onnxprune.allocation.counts import Limits, Width
from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Group, Slices
from onnxprune.engines.profiles import EngineProfile
from onnxprune.graph.graph import Node, Value
from onnxprune.graph.operators import operator_of
from onnxprune.layers.weight_layout import channel_axes

Rounding = int | EngineProfile
"""What widths are to be multiples of: one number, or what an engine computes fast."""


def limits_of(groups: Sequence[Group], min_channels: int, rounding: Rounding) -> list[Limits]:
    """What each group must keep.

    Args:
        groups: The groups that may shrink.
        min_channels: Units that every group keeps.
        rounding: What the widths of layers that lose channels are to be multiples of.
    """
    if rounding == 1:
        return [Limits(max(min_channels, group.least)) for group in groups]
    widths = zip(groups, _widths(groups, rounding), strict=True)
    return [Limits(max(min_channels, group.least), tuple(dict.fromkeys(found))) for group, found in widths]


def multiple_for(value: Value, rounding: Rounding) -> int:
    """What the width of a layer with a weight is to be a multiple of."""
    if isinstance(rounding, int):
        return rounding
    convolutions = [node for node, _ in value.consumers if node.attribute("group") is not None or _convolves(node)]
    if len(value.shape or []) <= 2 or not convolutions:
        return rounding.product
    grouped = any(int(node.attribute("group", 1)) > 1 for node in convolutions)
    return rounding.depthwise if grouped else rounding.convolution


def _convolves(node: Node) -> bool:
    affine = operator_of(node).affine
    return affine is not None and any(form.kind.startswith("conv") for form in affine(node))


def _widths(groups: Sequence[Group], rounding: Rounding) -> list[list[Width]]:
    """The widths that depend on each group; of an axis that several share each answers for its own part."""
    slices = [_channel_slices(group) for group in groups]
    sharing = Counter((s.value.key, s.axis) for found in slices for s, _ in found)
    widths: list[list[Width]] = []
    for group, found in zip(groups, slices, strict=True):
        widths.append([])
        for s, blocks in found:
            per_unit, length = s.indices.shape[1], (s.value.shape or [])[s.axis]
            alone = sharing[s.value.key, s.axis] == 1 and isinstance(length, int)
            rest = length - group.units * per_unit if alone else 0
            widths[-1].append(Width(per_unit * blocks, rest * blocks, multiple_for(s.value, rounding)))
    return widths


def _channel_slices(group: Group) -> list[tuple[Slices, int]]:
    """What a group slices of the channels of layers, with the blocks that each axis stands for.

    Of a group that no product reads or writes it is all that it slices.
    """
    found = []
    for s in group.slices:
        blocks = channel_axes(s.value).get(s.axis)
        if blocks is not None:
            found.append((s, blocks))
    return found or [(s, 1) for s in group.slices]


def unrounded(
    coupling: Coupling, removed: Mapping[str, Mapping[str, Sequence[int]]], round_to: int
) -> dict[str, dict[str, int]]:
    """Widths that are smaller now and no multiples.

    Args:
        coupling: The analysis of the original.
        removed: Constant -> axis -> removed indices, see `Plan.removed`.
        round_to: What widths are to be multiples of.

    Returns:
        Constant -> axis -> channels along it now.
    """
    found: dict[str, dict[str, int]] = {}
    for value in coupling.graph.constants():
        for axis, blocks in sorted(channel_axes(value).items()):
            lost, length = removed.get(value.key, {}).get(str(axis), ()), (value.shape or [])[axis]
            if lost and isinstance(length, int) and (width := (length - len(lost)) * blocks) % round_to:
                found.setdefault(value.key, {})[str(axis)] = width
    return found
