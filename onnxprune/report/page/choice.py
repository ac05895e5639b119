"""What a page needs to predict the costs of other shares, and to write them as a recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxprune.cost.cost_model import LengthProducts, macs, parameters
from onnxprune.cost.time_model import latency
from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Group
from onnxprune.engines.times import Times
from onnxprune.layers.find import linear_layers
from onnxprune.layers.weights import takes_bias
from onnxprune.report.page.content import PageChoice, PageSlider

RECIPE = "recipe.toml"
"""File name of what a page writes."""


@dataclass(frozen=True)
class Scenario:
    """What the shares on a page are for.

    Attributes:
        groups: The groups that may shrink.
        engine: The engine that the model is for.
        steps: Units of each group of which multiples are widths that the engine computes fast.
        patterns: Expression of each group that has one, in the order of a recipe: position, expression, and positions
            of the others that it matches, which come later.
        shapes: Shapes of the main graph's values; None where MACs cannot be counted.
        times: Measured times; None without.
        timed_shapes: Shapes of the values that the times are of.
        options: What a recipe says besides, by its keys.
        command: What runs the recipe.
    """

    groups: Sequence[Group]
    engine: str
    steps: Sequence[int]
    patterns: Sequence[tuple[int, str, Sequence[int]]]
    shapes: Mapping[str, Sequence[int]] | None
    times: Times | None
    timed_shapes: Mapping[str, Sequence[int]]
    options: Mapping[str, Any]
    command: str


def page_choice(coupling: Coupling, scenario: Scenario) -> PageChoice | None:
    """What a page predicts and writes; None where no group may shrink."""
    if not scenario.patterns:
        return None
    placed = {group: pattern for group, pattern, _ in scenario.patterns}
    groups = [scenario.groups[i] for i in placed]
    positions = {g.name: i for i, g in enumerate(coupling.groups)}
    ordered = sorted(groups, key=lambda group: positions[group.name])
    number = {group.name: i for i, group in enumerate(ordered)}
    hit = {scenario.groups[other].name for _, _, others in scenario.patterns for other in others}
    expressions = {scenario.groups[i].name: pattern for i, pattern in placed.items()}
    steps = {scenario.groups[i].name: scenario.steps[i] for i in placed}
    shapes, times = scenario.shapes, scenario.times
    timed = None if times is None else latency(coupling, ordered, scenario.timed_shapes, times)
    repaired = scenario.options.get("repair") != "none"
    return PageChoice(
        sliders=[PageSlider(positions[g.name], expressions[g.name], g.name in hit, steps[g.name]) for g in ordered],
        order=[number[group.name] for group in groups],
        params=parameters(coupling, ordered).table(),
        biases=_added_biases(coupling, ordered).table() if repaired else None,
        macs=None if shapes is None else macs(coupling, ordered, shapes).table(),
        latency=None if timed is None else timed.table(),
        engine=scenario.engine,
        recipe=as_toml({**scenario.options, "ratio": 0.0}),
        file=RECIPE,
        command=scenario.command,
    )


def _added_biases(coupling: Coupling, groups: Sequence[Group]) -> LengthProducts:
    """Biases that a repair may give to layers that have none."""
    layers = [layer for layer in linear_layers(coupling.graph) if layer.bias is None and takes_bias(layer)]
    axes = [layer.output.axis(layer.out_axis % len(layer.output.shape or [])) for layer in layers if layer.output.shape]
    return LengthProducts(coupling, groups, [(1.0, [axis]) for axis in axes])


def as_toml(options: Mapping[str, Any]) -> str:
    """Keys with strings, numbers, truth values or lists of these as lines of TOML.

    >>> print(as_toml({"only": ["stem"], "mixing": True, "seed": 3}))
    only = ["stem"]
    mixing = true
    seed = 3
    """
    return "\n".join(f"{key} = {_toml(value)}" for key, value in options.items())


def _toml(value: Any) -> str:
    """JSON and TOML write these alike, but for one character that strings of TOML must escape."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
