"""What a page shows, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.table import Table

from onnxprune.cost.table import CostTable
from onnxprune.report.json_data import JsonValue
from onnxprune.report.tables import Part


@dataclass(frozen=True)
class Section:
    """A paragraph or a table.

    Attributes:
        text: The paragraph, in lines; empty for a table.
        columns: Titles of the table's columns.
        numbers: Which of them hold numbers, and are set flush right.
        rows: Its cells.
    """

    text: str = ""
    columns: list[str] = field(default_factory=list)
    numbers: list[bool] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True)
class PageLayer:
    """A layer in the strip.

    Attributes:
        name: Name of its node, as Netron shows it.
        operator: Its operator.
        before: Shape of its weight.
        after: Shape of what stays of it.
        groups: Positions of the groups that slice it, in `Page.groups`.
        params: Elements of its weights.
        kept: Share of them that stays.
        macs: Multiply-accumulates of the original; None where they cannot be counted.
        times: Milliseconds before and after, with the nodes that follow it up to the next layer; None where they were
            not measured.
    """

    name: str
    operator: str
    before: list[int]
    after: list[int]
    groups: list[int]
    params: int
    kept: float
    macs: int | None = None
    times: list[float] | None = None


@dataclass(frozen=True)
class PageGroup:
    """A group of coupled channels.

    Attributes:
        name: Its name.
        channels: How many channels it has.
        removed: How many of them went.
        grade: ``exact``, ``mixing`` or ``pinned``.
        reasons: Why it is not exact.
        damage: Damage of what went, or of half of it where nothing did; None where it is not known.
    """

    name: str
    channels: int
    removed: int
    grade: str
    reasons: list[str]
    damage: float | None = None


@dataclass(frozen=True)
class PageCurve:
    """Damage of one group by the share of its channels that is removed.

    Attributes:
        group: Position of the group.
        shares: Shares, ascending.
        damage: The damage at each; None where it is not finite.
        measured: Whether each was measured.
    """

    group: int
    shares: list[float]
    damage: list[float | None]
    measured: list[bool]


@dataclass(frozen=True)
class PageZeros:
    """A weight that a pattern set to zero in parts.

    Attributes:
        name: Its name.
        shape: Its shape.
        pattern: The pattern.
        zeros: Share of its elements that are zero.
        sizes: How many of the others there are by their magnitude, from 0 to the largest.
        corner: Its first rows and columns, of further axes the first index: 1 for what is not zero.
    """

    name: str
    shape: list[int]
    pattern: str
    zeros: float
    sizes: list[int]
    corner: list[str]


@dataclass(frozen=True)
class PageVariant:
    """A variant of a sweep.

    Attributes:
        name: Its name.
        cost: Share of the cost that is left.
        loss: What is lost.
        front: Whether no other variant is better in both.
    """

    name: str
    cost: float
    loss: float
    front: bool


@dataclass(frozen=True)
class PageSlider:
    """A group whose share is chosen on the page.

    Attributes:
        group: Its position in `Page.groups`.
        pattern: The expression that names it in a recipe.
        shared: Whether an expression of another group, which comes before, matches it too.
        step: Units of which multiples are widths that the engine computes fast.
    """

    group: int
    pattern: str
    shared: bool
    step: int


@dataclass(frozen=True)
class PageChoice:
    """What is predicted of a model, and written as a recipe, for any number of channels that each group keeps.

    Attributes:
        sliders: The groups, in the order of their costs.
        order: Positions of the sliders, in the order that their expressions have in a recipe.
        params: The parameters that are left.
        biases: Those that a repair may add at most; None without one.
        macs: The MACs that are left; None where they cannot be counted.
        latency: The milliseconds; None without measured times.
        engine: The engine by whose widths the sliders move.
        recipe: What a recipe says besides, as TOML.
        file: Its file name.
        command: What runs it.
    """

    sliders: list[PageSlider]
    order: list[int]
    params: CostTable
    biases: CostTable | None
    macs: CostTable | None
    latency: CostTable | None
    engine: str
    recipe: str
    file: str
    command: str


@dataclass(frozen=True)
class Page(JsonValue):
    """All that a page shows.

    Attributes:
        title: What it is about.
        command: The command that made it.
        versions: Versions of what it depends on, by name.
        sections: Tables and paragraphs.
        layers: The layers, in execution order.
        groups: The groups.
        other_times: Milliseconds of the nodes before the first layer, before and after; None without measured times.
        zeros: The weights with zeros.
        curves: Damage curves.
        curves_of: What their damage is of.
        curves_add: Whether that is of the outputs, so that the damage of groups can be compared and added.
        choice: What is predicted for other shares; None where no group may be pruned.
        variants: The variants of a sweep.
        cost: What their cost is of.
        loss: What is lost, in words.
        loss_in_percent: Whether that is a share.
    """

    title: str
    command: str
    versions: dict[str, str]
    sections: list[Section]
    layers: list[PageLayer] = field(default_factory=list)
    groups: list[PageGroup] = field(default_factory=list)
    other_times: list[float] | None = None
    zeros: list[PageZeros] = field(default_factory=list)
    curves: list[PageCurve] = field(default_factory=list)
    curves_of: str = ""
    curves_add: bool = False
    choice: PageChoice | None = None
    variants: list[PageVariant] = field(default_factory=list)
    cost: str = ""
    loss: str = ""
    loss_in_percent: bool = True


def sections(parts: Sequence[Part]) -> list[Section]:
    """What a terminal shows, as sections of a page."""
    return [Section(part) if isinstance(part, str) else _table(part) for part in parts]


def _table(drawn: Table) -> Section:
    columns = [[str(cell) for cell in column.cells] for column in drawn.columns]
    return Section(
        columns=[str(column.header) for column in drawn.columns],
        numbers=[column.justify == "right" for column in drawn.columns],
        rows=[list(row) for row in zip(*columns, strict=True)],
    )
