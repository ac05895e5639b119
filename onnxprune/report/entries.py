"""Entries of a report that describe single steps of a run."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Count:
    """A number before and after; None where it cannot be counted."""

    before: int | None
    after: int | None


@dataclass(frozen=True)
class BlockReport:
    """A block that went as a whole.

    Attributes:
        sum: Name of the sum that lost a summand.
        nodes: The nodes that went with it, in the order in which they ran.
        damage: Squared error of the outputs that it added, as a share of their variance; None where it is not known.
        ends: Graph inputs and outputs that went with it.
    """

    sum: str
    nodes: list[str]
    damage: float | None
    ends: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PermutedGroup:
    """A group in another order.

    Attributes:
        group: Name of the group.
        channels: Its units.
        before: Share of the magnitude that the pattern keeps in the old order.
        after: The same in the new one.
    """

    group: str
    channels: int
    before: float
    after: float


@dataclass(frozen=True)
class PermutationReport:
    """Effect of a permutation of channels on an N:M pattern.

    Attributes:
        before: Share of the magnitude of all weights in question that the pattern keeps in the old order.
        after: The same in the new one.
        groups: The groups that moved.
        whole_because: Why none did, where one might have.
    """

    before: float | None
    after: float | None
    groups: list[PermutedGroup]
    whole_because: str | None


@dataclass(frozen=True)
class StorageReport:
    """Weights that are stored as sparse initializers.

    Attributes:
        sparse: Tensor -> its size before and after, in bytes.
        dense_because: Why others are not.
        gzip: Bytes of the model file once compressed.
    """

    sparse: dict[str, Count]
    dense_because: str | None
    gzip: int | None


@dataclass(frozen=True)
class ResolvedOptions:
    """What the options came to that a run chooses itself.

    Attributes:
        repair: The method; the one that was chosen for ``auto``.
        importance: Criterion that ranked channels; None where none were to be removed.
        zeros: Criterion that chose zeros; None without a pattern of zeros.
        global_ranking: Whether channels, or weights where no channels were to be removed, were ranked together.
    """

    repair: str
    importance: str | None
    zeros: str | None
    global_ranking: bool


@dataclass(frozen=True)
class Measured:
    """How a number was obtained.

    Attributes:
        how: ``counted`` from the graph, ``run in onnxruntime``, or ``timed in`` an engine.
        on: The inputs of these runs, in words; None where nothing was run.
        samples: How many calibration samples they were; None for other inputs, or where that is not known.
        shapes: Shapes of the graph inputs that it was counted at, where it depends on them.
    """

    how: str
    on: str | None = None
    samples: int | None = None
    shapes: dict[str, list[int]] | None = None


@dataclass(frozen=True)
class DamageCurve:
    """Predicted damage of one group.

    Attributes:
        removed: Some numbers of removed units, ascending.
        damage: The damage after each.
    """

    removed: list[int]
    damage: list[float]


@dataclass(frozen=True)
class DamageCurves:
    """Predicted damage by how many units are removed, for each group that was open to pruning.

    Attributes:
        of: What is damaged: ``outputs``, by squared error relative to their variance, or ``readers`` where the curves
            were not measured at the outputs: the layers that read the group, by the same of theirs.
        groups: The curve of each group, by its name.
    """

    of: str
    groups: dict[str, DamageCurve]
