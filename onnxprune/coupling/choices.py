"""Decides how each reshape (and other node with alternatives) carries channels.

C -> (g, k) can carry channels along g or along k, not both. The alternative is chosen that keeps more units removable
after the constraints of all other operators: one whose every unit is pinned is out; a single one left is taken; among
several, an axis that a product of two activations uses as batch axis (attention heads) comes first, then the finer
grain. Every decision adds ties and pins that may settle others, so this runs to a fixpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.coupling.components import AxisClasses, Index, components, edges
from onnxprune.graph.graph import Axis
from onnxprune.ops.ties import Alternative, Choice, Link


@dataclass
class _Candidate:
    alternative: Alternative
    units: int
    preferred: bool

    @property
    def rank(self) -> tuple[int, bool, int]:
        return self.alternative.weight, self.preferred, self.units


def decide(
    choices: Sequence[Choice],
    classes: AxisClasses,
    links: list[Link],
    barred: np.ndarray,
    batch_axes: Sequence[int],
    *,
    prefer_heads: bool = True,
) -> None:
    """Fills in `Choice.taken` for every choice.

    Args:
        choices: The open choices.
        classes: Axis classes and their elements.
        links: Ties between single indices that hold in any case; the links of what is taken are appended.
        barred: Boolean per element, True where it may not be removed; elements that decisions pin are set in place.
        batch_axes: Axes that products between activations run over as batches (heads).
        prefer_heads: Whether those come first, or last.
    """
    batch = np.zeros(len(classes.length), dtype=bool)
    batch[classes.of[np.asarray(batch_axes, dtype=np.int64)]] = True
    open_ = list(choices)
    label = components(classes.linked, *edges(classes, links))
    while open_:
        shut = _shut(label, barred[: classes.linked])
        candidates = {c: _alive(c, classes, label, shut, batch, prefer_heads) for c in open_}
        ready = [c for c in open_ if len(candidates[c]) <= 1]
        if not ready:  # groups of a convolution follow heads, which may be several of them, and not the other way round
            heads = [c for c in open_ if prefer_heads and any(x.preferred for x in candidates[c])]
            ready = _first_of_each_network(heads or open_, candidates, classes)
        fresh: list[Link] = []
        for choice in ready:
            best = max(candidates[choice], key=lambda x: x.rank, default=None)
            choice.taken = best.alternative if best else None
            fresh += _settle(choice, classes, barred)
        links.extend(fresh)
        a, b = edges(classes, fresh)
        label = components(classes.linked, label[a], label[b])[label]
        done = set(map(id, ready))
        open_ = [c for c in open_ if id(c) not in done]


def _shut(label: Index, barred: np.ndarray) -> np.ndarray:
    """Per element, whether its component holds a barred one."""
    hit = np.zeros(len(label), dtype=bool)
    hit[label[barred]] = True
    return hit[label]


def _alive(
    choice: Choice, classes: AxisClasses, label: Index, shut: np.ndarray, batch: np.ndarray, prefer_heads: bool
) -> list[_Candidate]:
    found = []
    for alternative in choice.alternatives:
        if not all(classes.fits(link) for link in alternative.links):
            continue
        units = max((_units(link, classes, label, shut) for link in alternative.links), default=0)
        if units > 1:
            heads = any(batch[classes.of[axis.id]] for axis, _ in alternative.links[0])
            found.append(_Candidate(alternative, units, heads == prefer_heads))
    return found


def _units(link: Link, classes: AxisClasses, label: Index, shut: np.ndarray) -> int:
    """How many separate units without a barred element the link would make."""
    digits = np.concatenate([labels for _, labels in link])
    spans = [classes.span(axis.id) for axis, _ in link]
    elements = np.concatenate([np.arange(s.start, s.stop) for s in spans])
    elements, digits = elements[digits >= 0], digits[digits >= 0]
    if not len(digits):
        return 0
    _, mates = np.unique(label[elements], return_inverse=True)
    count = int(digits.max()) + 1
    joined = components(count + int(mates.max()) + 1, digits, count + mates)
    dead = np.zeros(len(joined), dtype=bool)
    dead[joined[digits[shut[elements]]]] = True
    alive = np.unique(joined[:count])
    return int((~dead[alive]).sum())


def _first_of_each_network(
    choices: Sequence[Choice], candidates: dict[Choice, list[_Candidate]], classes: AxisClasses
) -> list[Choice]:
    """The choice to settle first among those that share an axis: neighbours then follow it."""
    touched = [
        np.unique(classes.of[[axis.id for alt in c.alternatives for link in alt.links for axis, _ in link]])
        for c in choices
    ]
    owner = np.repeat(np.arange(len(choices)), [len(t) for t in touched])
    joined = components(len(choices) + len(classes.length), owner, len(choices) + np.concatenate(touched))
    best: dict[int, Choice] = {}
    for i, choice in enumerate(choices):
        network = int(joined[i])
        rank = max(x.rank for x in candidates[choice])
        if network not in best or rank > max(x.rank for x in candidates[best[network]]):
            best[network] = choice
    return list(best.values())


def _settle(choice: Choice, classes: AxisClasses, barred: np.ndarray) -> list[Link]:
    """Bars what the decision keeps whole; the links that it adds."""
    pins: list[Axis] = []
    if choice.taken is None:
        pins = [axis for alt in choice.alternatives for link in alt.links for axis, _ in link]
        pins += [axis for alt in choice.alternatives for axis in alt.pins]
    else:
        pins = choice.taken.pins
        for axis, indices in choice.taken.kept:
            barred[classes.span(axis.id).start + indices] = True
    for axis in pins:
        barred[classes.span(axis.id)] = True
    return [] if choice.taken is None else choice.taken.links
