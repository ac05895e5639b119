"""The report of a run as typed values, and as strict JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onnxprune import __version__
from onnxprune.repair.distilled import Distillation
from onnxprune.repair.layerwise import Refit
from onnxprune.report.entries import (
    BlockReport,
    Count,
    DamageCurves,
    Measured,
    PermutationReport,
    ResolvedOptions,
    StorageReport,
)
from onnxprune.report.json_data import OMIT_NONE, JsonValue
from onnxprune.report.metric import GateReport, MetricReport
from onnxprune.verification.decisions import Decisions, Estimate
from onnxprune.verification.drift import Drift
from onnxprune.verification.latency import Timing
from onnxprune.verification.neighbours import Neighbours
from onnxprune.verification.sample_errors import OutputReport


@dataclass(frozen=True)
class GroupReport:
    """Channels removed from a group.

    Attributes:
        name: Name of the group: a constant and the axis that it slices first, or a node.
        channels: Units (channels, heads, blocks) of the original.
        removed: Which of them were removed, ascending.
        grade: ``exact``, ``mixing`` or ``pinned``.
        pinned: Why it is not exact.
        nodes: Names of the nodes that read what the group slices, in the order in which they run.
        damage: Predicted damage of what was removed, where a target was allocated by it.
    """

    name: str
    channels: int
    removed: list[int]
    grade: str
    pinned: list[str]
    nodes: list[str] = field(default_factory=list)
    damage: float | None = field(default=None, metadata=OMIT_NONE)


@dataclass(frozen=True)
class TargetReport:
    """A target: limit of a cost, cost of the result, and verdict.

    Attributes:
        asked: Most that may be left; latency in milliseconds.
        left: What is left, counted or measured; None where it cannot be counted.
        met: Whether that is within the limit; latency to within 2%, as it can be measured no better.
        predicted: Latency that was predicted from the times at other widths; of other costs what was predicted to be
            left, where that is within the limit and what is left is not.
        checked: Whether `left` is what a run of the model took; false where it is predicted.
        engine: What a latency was measured in.
    """

    asked: float
    left: float | None
    met: bool
    predicted: float | None = field(default=None, metadata=OMIT_NONE)
    checked: bool = True
    engine: str | None = field(default=None, metadata=OMIT_NONE)


@dataclass(frozen=True)
class Amount:
    """The requested amount: a ratio, or a target for each of some costs."""

    ratio: float | None = field(default=None, metadata=OMIT_NONE)
    target: dict[str, float | str] | None = field(default=None, metadata=OMIT_NONE)


@dataclass(frozen=True)
class SearchTrial(Amount):
    """One trial of a search.

    Attributes:
        params: Parameters that it has.
        met: Whether it met every gate.
        gates: What was measured for each gate.
    """

    params: int | None = None
    met: bool = False
    gates: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class SearchReport:
    """Trials of a search in order, and the amount of the one that was selected."""

    trials: list[SearchTrial]
    found: Amount


@dataclass(frozen=True)
class InputReport:
    """What the calibration samples hold for one input.

    Attributes:
        shape: Shape of a sample.
        low: Smallest finite value; None where there is none, and so for the next three.
        high: Largest finite value.
        mean: Mean of the finite values.
        deviation: Their standard deviation.
        samples: Samples that were looked at.
        broken: How many of these hold a value that is not finite.
        alike: Whether all samples are equal.
    """

    shape: list[int]
    low: float | None
    high: float | None
    mean: float | None
    deviation: float | None
    samples: int
    broken: int
    alike: bool


@dataclass(frozen=True)
class TrainingMismatch:
    """How far samples are from those that a model was trained on.

    Attributes:
        node: The first BatchNormalization.
        divergence: Median over its channels of the Kullback-Leibler divergence of the samples' normal distribution from
            that of training, in nats.
    """

    node: str
    divergence: float


@dataclass(frozen=True)
class ScaleMismatch:
    """The scale of the input that suits the weights of a model best, and by how much.

    Attributes:
        factor: What the samples are multiplied with at that scale; 1 where theirs is the best.
        given: Median over the features of all layers of |mean| / standard deviation for the samples as they are.
        best: The same for the samples at that scale.
    """

    factor: float
    given: float
    best: float


@dataclass(frozen=True)
class CalibrationReport:
    """The result on samples that neither scores nor repair have seen, where there are enough to hold some out.

    Attributes:
        samples: How many they are.
        held_out: Whether neither scores nor repair used them.
        relative_error: Squared error of the outputs as a share of their variance.
        decisions: The output that chooses classes and is expected to lose most; None where none chooses any.
        learned: Accuracy that this output loses on samples that were learned from, which is too low, where the others
            are too few to rule out a large loss; else None.
        neighbours: The output that holds embeddings and keeps the fewest nearest neighbours; None where none does.
        outputs: Agreement of each output, and the samples on which it moved most.
        inputs: What the samples hold, by input.
        mismatch: How far they are from training, where a BatchNormalization tells it.
        scale: How well their scale suits the weights, where no BatchNormalization is left.
        unused: Names of given arrays that are neither inputs nor labels.
        labels: Why labels are not used, or cannot be right; None where nothing is wrong.
    """

    samples: int | None
    held_out: bool
    relative_error: float | None
    decisions: Decisions | None = None
    learned: Estimate | None = field(default=None, metadata=OMIT_NONE)
    neighbours: Neighbours | None = field(default=None, metadata=OMIT_NONE)
    outputs: dict[str, OutputReport] = field(default_factory=dict)
    inputs: dict[str, InputReport] = field(default_factory=dict)
    mismatch: TrainingMismatch | None = None
    scale: ScaleMismatch | None = None
    unused: list[str] = field(default_factory=list)
    labels: str | None = field(default=None, metadata=OMIT_NONE)

    @property
    def on(self) -> str:
        """The samples in words."""
        return "held-out samples" if self.held_out else "samples that were learned from (too few to hold any out)"


@dataclass(frozen=True)
class LatencyReport:
    """Times of one run of both models in onnxruntime, from alternating runs on the same inputs.

    Attributes:
        before: Seconds of a run of the original.
        after: The same of the result.
        ratio: Time of the result over that of the original.
        runs: Timed runs of each.
        threads: Threads for one operator.
        layers: Linear layers of the result that have fewer output features than in the original.
        uneven: How many of these have a number of output features that is no multiple of `EVEN`.
    """

    before: Timing
    after: Timing
    ratio: float
    runs: int
    threads: int
    layers: int
    uneven: int


EVEN = 8
"""Engines run layers whose channels are a multiple of this, or of twice as many, in full vectors."""


SYNTHETIC = "synthetic inputs"
SCHEMA = 1
"""Version of the JSON report: keys may be added to it; one that changes its meaning or goes makes it another."""


@dataclass(frozen=True)
class Report(JsonValue):
    """Result of a run as data.

    Attributes:
        params: Parameters before and after.
        macs: Multiplications and additions of one run, before and after.
        bytes: Size of the model with its data, before and after.
        channels: Units that were open to pruning, before and after.
        drift: How far each output moved, by name.
        drift_on: The inputs that the drift was measured on.
        many_positions: Outputs that hold values of many positions of a sample, as those of detectors do.
        verified: Whether both models ran on the same inputs.
        unverified_because: Why they did not.
        options: What was asked (`Options.to_dict`, which `Options.from_dict` reads); None where a plan was applied.
        resolved: What the options came to that the run chose itself; None where a plan was applied.
        groups: Every group of channels.
        blocks: The blocks that went as a whole; groups and channels are of what they left.
        zeroed: Constant -> share of its elements that a pattern set to zero.
        dense: Constant -> why it was to have zeros and has none.
        whole_because: Why nothing was taken; None where something was.
        rounded: Name of each group that rounding of a ratio changed -> units that it keeps without rounding, and now.
        unrounded: Constant -> axis -> channels along it, for widths that are smaller now and no multiple of the
            ``round_to`` that was asked for.
        permuted: Effect of the permutation; None without one.
        storage: Effect of sparse storage; None without it.
        mixing: Whether groups of grade mixing were open to pruning.
        interface: Graph input or output -> axis -> indices lost.
        targets: What became of each target.
        gates: What became of each gate.
        search: What a search made; None without one.
        repair: Every layer that a refit was tried on; None without repair.
        distilled: What the training of a distilled repair did; None without one.
        unrepaired_because: Why ``repair="auto"`` repaired nothing; None where it did, or with another method.
        calibration: Output errors on held-out samples; None without calibration data.
        metric: The metric before and after; None without calibration data, or without labels where none was asked for.
        latency: What a run of both models takes; None where it was not measured.
        untimed_because: Why it could not be measured; None where it was, or was not requested.
        damage_curves: Predicted damage of each group by how much of it is removed; None where no data were used for it.
        warnings: What to look at before the result is used, a line each.
        notes: What else to know of the result, a line each.
        skipped: Stages that a dry run left out: ``repair``, ``judge``, ``store``, ``gates``, ``verify``, ``time``.
        measured_on: What each number was measured on: ``params``, ``macs``, ``drift``, ``gates.NAME`` and so on.
        seconds: Time by stage.
        schema: Version of the JSON report (`SCHEMA`).
        version: Version of onnxprune that wrote it.
    """

    params: Count
    macs: Count
    bytes: Count
    channels: Count
    drift: dict[str, Drift]
    verified: bool
    unverified_because: str | None
    options: dict[str, Any] | None
    groups: list[GroupReport]
    zeroed: dict[str, float]
    dense: dict[str, str]
    whole_because: list[str] | None
    mixing: bool
    interface: dict[str, dict[str, int]]
    resolved: ResolvedOptions | None = None
    blocks: list[BlockReport] = field(default_factory=list)
    rounded: dict[str, tuple[int, int]] = field(default_factory=dict)
    unrounded: dict[str, dict[str, int]] = field(default_factory=dict)
    permuted: PermutationReport | None = None
    storage: StorageReport | None = None
    targets: dict[str, TargetReport] = field(default_factory=dict)
    gates: dict[str, GateReport] = field(default_factory=dict)
    search: SearchReport | None = None
    repair: list[Refit] | None = None
    distilled: Distillation | None = None
    unrepaired_because: str | None = None
    calibration: CalibrationReport | None = None
    metric: MetricReport | None = None
    drift_on: str = SYNTHETIC
    many_positions: list[str] = field(default_factory=list)
    latency: LatencyReport | None = None
    untimed_because: str | None = None
    damage_curves: DamageCurves | None = None
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    measured_on: dict[str, Measured] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    schema: int = SCHEMA
    version: str = __version__

    @property
    def missed(self) -> bool:
        """Whether a target or a gate was missed."""
        return not all(t.met for t in self.targets.values()) or not all(g.met for g in self.gates.values())

    if not TYPE_CHECKING:  # a type checker asks for the attributes

        def __getitem__(self, key: str) -> Any:
            """The JSON data of a field, as scripts read it that were written for the JSON report."""
            return self.to_dict()[key]
