"""What a run is asked to do, checked once."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from onnxprune import patterns
from onnxprune.errors import InputError
from onnxprune.patterns import CHANNELS, Pattern

FROM_DATA = ("obs", "wanda", "flap", "apoz")
SOLVERS = ("sparsegpt", "alps")
"""Choose zeros, not channels."""
CRITERIA = ("l1", "l2", "fpgm", "lamp", "bn-scale", "random", *FROM_DATA, *SOLVERS)
MAGNITUDE = ("l1", "l2")
"""Look at the weights alone."""
OF_ZEROS = (*MAGNITUDE, "obs", "wanda", *SOLVERS)
"""What chooses zeros; where another criterion is asked for, it is for the channels, and zeros have their default."""
REPAIRS = ("auto", "none", "data-free", "calibrated")
COSTS = ("macs", "params", "bytes")
ATTENTION = ("heads", "dims")
GATES = {"drift": (0.0, math.inf), "cosine": (-1.0, 1.0), "agreement": (0.0, 1.0)}
"""What a gate may ask for, and between which limits."""
_KINDS: list[tuple[Sequence[str], type, str]] = [
    (("seed", "min_channels", "round_to", "samples", "memory", "steps", "run_memory"), Integral, "a whole number"),
    (("ratio", "run_seconds"), Real, "a number"),
    (("target",), Mapping, "a mapping such as {'macs': 0.5}"),
    (("gate",), Mapping, "a mapping such as {'drift': 0.05}"),
    (("input_shapes",), Mapping, "a mapping such as {'input': (1, 3, 224, 224)}"),
]
FURTHEST = 0.95
"""Ratio that a search goes to at most, where nothing else is said."""


@dataclass(frozen=True)
class Options:
    """Options of one pruning run.

    Attributes:
        ratio: Share of the units (channels, heads, blocks) of every prunable group that goes, 0 <= ratio < 1.
        pattern: ``channels`` to remove, a pattern of zeros (see `patterns`), or both: channels go first.
        across: Rank across groups (or weights, or their blocks) instead of within each; by default that is done with
            zeros that data choose and a refit follows, see `spreads_zeros`.
        importance: Criterion, one of `CRITERIA`; by default ``obs`` with calibration data, or made-up inputs for a
            data-free repair (where the model consists mainly of convolutions), else ``l2``.
        target: What may be left of some of `COSTS`, in place of a ratio: a fraction (``0.5``) or an amount (``"2G"``).
        calib: Calibration data, see `calibration.open_samples`: unlabelled inputs that scores and repair learn from.
        samples: Calibration samples to use at most.
        memory: Bytes of activations to hold before they go to files.
        stats: File of statistics from calibration data: used where it exists, else written.
        steps: Rounds of removal, with repair and new statistics in between; more than one needs calibration data.
        seed: Seed of anything random.
        repair: ``none``; ``data-free``, on made-up inputs; ``calibrated``, which needs calibration data; or ``auto``,
            which is ``calibrated`` where there are any, else ``data-free`` for models that consist mainly of
            convolutions and run on made-up inputs, and ``none`` for all others.
        only: Regular expressions; only groups with a matching initializer or node are pruned.
        ignore: Regular expressions; groups with a matching initializer or node are left whole.
        mixing: Prune groups of grade *mixing* too.
        attention: ``heads`` takes whole heads of attention, ``dims`` places within heads.
        shrink: Regular expressions; matching graph inputs and outputs may lose slices too (a cache of keys and values,
            the state of a recurrent layer).
        min_channels: Units that every group keeps.
        round_to: What is left of a group is rounded up to a multiple of this.
        permute: Reorder channels first, so that an N:M pattern keeps more.
        sparse_storage: Store weights with many zeros as sparse initializers, where that is smaller.
        gate: Limits to how far outputs may be from the original's: ``drift`` (relative RMS, at most), ``cosine`` or
            ``agreement`` (share of equal top-1 choices; both at least), of any output, or ``drift:OUTPUT`` of one.
            Measured on calibration samples held back, else on made-up inputs.
        keep_anyway: Write a model that misses a gate.
        drift_search: Take the smallest model within the gates; ratio or target is the furthest to go (by default a
            ratio of `FURTHEST`).
        run_seconds: The longest that one load or run of a model in onnxruntime may take.
        run_memory: Bytes that onnxruntime may hold; None for all that there are.
        verify: Check the result in onnxruntime.
        input_shapes: Shapes of graph inputs to count MACs at and to verify with.

    Raises:
        InputError: A value is out of range, unknown or contradicts another.
    """

    ratio: float | None = None
    pattern: str | Sequence[str] = CHANNELS
    across: bool | None = None
    importance: str | None = None
    seed: int = 0
    repair: str = "auto"
    only: Sequence[str] = ()
    ignore: Sequence[str] = ()
    mixing: bool = False
    attention: str = "heads"
    shrink: Sequence[str] = ()
    min_channels: int = 1
    round_to: int = 1
    verify: bool = True
    input_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    target: Mapping[str, str | float] = field(default_factory=dict)
    calib: Any = None
    samples: int | None = None
    memory: int = 10**9
    steps: int = 1
    stats: str | os.PathLike[str] | None = None
    permute: bool = False
    sparse_storage: bool = False
    gate: Mapping[str, float] = field(default_factory=dict)
    keep_anyway: bool = False
    drift_search: bool = False
    run_seconds: float = 600.0
    run_memory: int | None = None

    def __post_init__(self) -> None:
        self._check_types()
        if self.importance is not None:
            one_of("importance", self.importance, CRITERIA)
        for cost in self.target:
            one_of("target", cost, COSTS)
        one_of("repair", self.repair, REPAIRS)
        one_of("attention", self.attention, ATTENTION)
        self._check_zeros()
        self._check_gates()
        if self.target and (self.ratio is not None or not self.channels):
            raise InputError(
                f"target and {'ratio' if self.ratio is not None else 'pattern'} both say how much", "give one of them"
            )
        stored = self.stats is not None and os.path.exists(self.stats)
        if self.calib is None and self.repair == "calibrated":
            raise InputError("repair 'calibrated' needs calibration data", "give some with --calib")
        synthetic = self.repair == "data-free" and self.channels  # made for the repair, they serve the scores as well
        if self.calib is None and self.importance in FROM_DATA and not (stored or synthetic):
            raise InputError(f"importance {self.importance!r} needs calibration data", "give some with --calib")
        if self.stats is not None and self.calib is None and not stored:
            raise InputError(
                f"there are no statistics in {os.fspath(self.stats)!r} and no data to make them from",
                "give some with --calib",
            )
        if self.stats is not None and self.criterion not in FROM_DATA:
            raise InputError(f"importance {self.criterion!r} uses no statistics", f"{', '.join(FROM_DATA)} do")
        if self.steps > 1 and (self.calib is None or self.criterion != "obs" or not self.channels):
            raise InputError(
                "steps need calibration data, importance 'obs' and channels to remove",
                "give a ratio or a target, and data with --calib",
            )
        if self.channels and self.ratio is None and not self.target:
            raise InputError("nothing says how much to prune", "give a ratio or a target, say --ratio 0.5")
        if self.ratio is not None:
            fraction("ratio", self.ratio)
        for name in ("min_channels", "round_to", "samples", "memory", "steps", "run_memory"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        if self.seed < 0:
            raise InputError(f"seed must be at least 0, not {self.seed}")
        for name in ("only", "ignore", "shrink"):
            if isinstance(getattr(self, name), str):  # one pattern by itself, not its letters
                object.__setattr__(self, name, (getattr(self, name),))
            regular(name, getattr(self, name))

    def _check_types(self) -> None:
        """Raises where a caller in Python gave something of another kind."""
        for names, kind, what in _KINDS:
            for name in names:
                value = getattr(self, name)
                if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
                    raise InputError(f"{name} must be {what}, not {value!r}")
        limits: Mapping[str, Any] = self.gate
        for name, limit in limits.items():
            if not isinstance(limit, Real):
                raise InputError(f"gate {name} must be a number, not {limit!r}")

    def _check_zeros(self) -> None:
        """Raises where the options contradict a pattern of zeros."""
        zeros, alone = self.zeros, not self.channels
        if self.permute and (zeros is None or zeros.kind != "n:m"):
            raise InputError(
                "permute orders channels for an N:M pattern, and none is asked for", "give --pattern 2:4, say"
            )
        if zeros is None:
            if self.importance in SOLVERS:
                raise InputError(
                    f"importance {self.importance!r} chooses zeros, not channels", "give a pattern, say --pattern 2:4"
                )
            return
        if alone and self.importance is not None and self.importance not in OF_ZEROS:
            raise InputError(f"importance {self.importance!r} ranks channels, not zeros", f"{', '.join(OF_ZEROS)} do")
        if (
            (alone or self.importance in SOLVERS)
            and self.importance not in (*MAGNITUDE, None)
            and (self.chooses_zeros in MAGNITUDE)
        ):
            raise InputError(
                f"importance {self.importance!r} needs calibration data"
                + (", which repair 'data-free' goes without" if self.repair == "data-free" else ""),
                "give some with --calib",
            )
        if alone and self.across and zeros.kind == "n:m":
            raise InputError(
                f"pattern {str(zeros)!r} takes as much of every weight, so that there is nothing to rank across them",
                "leave --global away",
            )
        if self.across and self.calib is None and self.chooses_zeros not in MAGNITUDE:
            raise InputError(
                "how much each weight can spare is measured with calibration data",
                "give some with --calib, or leave --global away",
            )
        if (
            alone
            and self.stats is not None
            and self.calib is not None
            and self.repair != "none"
            and (not self.spreads_zeros)
        ):
            raise InputError("zeros that are refitted use no statistics", "leave --stats away, or --repair none")

    def _check_gates(self) -> None:
        """Raises where gates ask for what cannot be; a search that does not say how far it goes gets `FURTHEST`."""
        for name, limit in self.gate.items():
            low, high = GATES[split_gate(name)[0]]
            if not low <= limit <= high or not math.isfinite(limit):
                raise InputError(f"gate {name} must be between {low:g} and {high:g}, not {limit:g}")
        if self.gate and not self.verify and self.calib is None:
            raise InputError(
                "gates are measured by the verification, which is switched off",
                "leave --no-verify away, or give data with --calib",
            )
        if self.drift_search and not self.gate:
            raise InputError("a drift search needs a gate to stay within", "--gate drift=0.05, say")
        if self.drift_search and not self.channels:
            raise InputError(
                "a drift search looks for channels, not zeros", "leave --pattern away, or add --pattern channels"
            )
        if self.drift_search and self.ratio is None and not self.target:
            object.__setattr__(self, "ratio", FURTHEST)
        if not (math.isfinite(self.run_seconds) and self.run_seconds > 0):
            raise InputError(f"run-seconds must be above 0, not {self.run_seconds:g}")

    @property
    def criterion(self) -> str:
        """The importance that holds."""
        seen = self.calib is not None or self.stats is not None or self.repair == "data-free"
        asked = self.importance if self.importance not in SOLVERS else None
        return asked or ("obs" if seen else "l2")

    @property
    def chooses_zeros(self) -> str:
        """The importance that holds for a pattern of zeros: from data of the model that they are made in.

        What `obs` chooses is good once the rest is refitted; where nothing is, that is `wanda`.
        """
        stored = self.stats is not None and not self.channels
        seen = (self.calib is not None or stored) and self.repair != "data-free"
        if self.importance in OF_ZEROS and (seen or self.importance in MAGNITUDE):
            best = self.importance
        else:
            best = "obs" if seen else "l2"
        return "wanda" if best == "obs" and self.repair == "none" else best

    @property
    def spreads_zeros(self) -> bool:
        """Whether what zeros do to the outputs says how many each weight gets, rather than the same share of each."""
        able = (
            self.zeros is not None
            and self.zeros.share is not None
            and self.calib is not None
            and (self.chooses_zeros not in MAGNITUDE)
        )
        return able and (self.repair != "none" if self.across is None else self.across)

    @property
    def channels(self) -> bool:
        """Whether channels are to go."""
        return self._patterns[0]

    @property
    def zeros(self) -> Pattern | None:
        """The pattern of zeros, None where there is none."""
        return self._patterns[1]

    @property
    def _patterns(self) -> tuple[bool, Pattern | None]:
        return patterns.read((self.pattern,) if isinstance(self.pattern, str) else tuple(self.pattern), self.ratio)


def fraction(name: str, value: float) -> float:
    """The value, if 0 <= value < 1; raises InputError otherwise."""
    if not (math.isfinite(value) and 0 <= value < 1):
        raise InputError(
            f"{name} must be at least 0 and below 1, not {value:g}", "a ratio of 0.5 takes half of the channels"
        )
    return value


def regular(name: str, patterns: Sequence[str]) -> None:
    """Raises InputError where one of the patterns of an option is no regular expression."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as e:
            raise InputError(f"{name}: {pattern!r} is not a regular expression: {e}") from None


def split_gate(name: str) -> tuple[str, str]:
    """Kind of a gate, and its output or "": ``drift:logits`` is ``drift`` of ``logits``."""
    kind, _, output = name.partition(":")
    return one_of("gate", kind, list(GATES)), output


def one_of(name: str, value: str, known: Sequence[str]) -> str:
    """The value, if it is a known one; raises InputError with the closest match otherwise."""
    if value in known:
        return value
    close = difflib.get_close_matches(value, known, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    raise InputError(f"unknown {name} {value!r}", f"{meant}one of {', '.join(known)}")
