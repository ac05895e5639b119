"""What can be added from outside: criteria, patterns of zeros, repairs, costs, sources of calibration data.

Each kind has one registry and one decorator. The package's own entries use the same registries. Packages add theirs by
an entry point in the group named beside each registry; operator rules (`onnxprune.rule`) have ``onnxprune.rules``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, get_args

from onnxprune.errors import InputError, OnnxPruneError
from onnxprune.extensions.registry import Registry

RULES = "onnxprune.rules"
"""Entry points of operator rules; `onnxprune.ops.registry` holds the rules."""

Needs = Literal["weights", "moments", "gradients"]
Scale = Literal["mean", "none", "standard"]


Scorer = Callable[[Any], Any]
"""From a `GroupView` to the importance of its units: shape (units,), the least important lowest; infinity for
units that are removed only when no others are left."""


ElementScorer = Callable[[Any], Any]
"""From a `WeightView` to the importance of each element: shape of its `values`, the least important lowest."""


Saliency = Literal["snip", "grasp", "synflow"]
"""What of an untrained model its training will need (`importance.saliency`)."""


@dataclass(frozen=True)
class Criterion:
    """Ranks the units of groups, or the elements of weights.

    Attributes:
        name: Name for ``--importance``.
        function: Scores one group; None for what chooses zeros only.
        needs: ``weights``, or what takes calibration data: ``moments`` of what layers read, or ``gradients``.
        scale: How scores compare across groups: divided by the mean of each group, left as they are, or standardised in
            each group.
        zeros: Whether it can choose zeros as well.
        sequential: Whether the score of a unit depends on those that were removed before: `function` is not called, the
            units are removed one after the other (`importance.obs`).
        elements: Scores the elements of a weight, where zeros are chosen by something else than magnitude or the
            package's own solvers.
        saliency: Scores units and elements of all groups and weights at once; `function` and `elements` are not called.
    """

    name: str
    function: Scorer | None
    needs: Needs = "weights"
    scale: Scale = "mean"
    zeros: bool = False
    sequential: bool = False
    elements: ElementScorer | None = None
    saliency: Saliency | None = None

    @property
    def comparable(self) -> bool:
        """Whether scores are losses or sensitivities of the outputs, which compare across groups and weights."""
        return self.needs == "gradients" or self.saliency is not None

    @property
    def from_data(self) -> bool:
        """Whether it takes calibration data."""
        return self.needs != "weights"

    @property
    def channels(self) -> bool:
        """Whether it ranks channels."""
        return self.function is not None or self.sequential or self.saliency is not None


@dataclass(frozen=True)
class RepairMethod:
    """Refits the layers that remain after the removal of channels.

    Attributes:
        name: Name for ``--repair``.
        function: Changes ``job.pruned`` in place and returns what it did to each layer (`repair.layerwise.Refit`); None
            for the package's own, which `pipeline.refit` carries out.
        needs_data: Whether it takes calibration data.
    """

    name: str
    function: Callable[[Any], Any] | None
    needs_data: bool = False


CostFactory = Callable[[Any, Any, Any], Any]
"""From the analysis' coupling, its groups and the static shapes of values to a cost: an object with ``left(removed)``,
the cost once so many units of each group are removed, and ``saving(removed, group, more)``, what `more` of one save."""


class Amount(float):
    """What may be left of a cost, however small the number is: no share of it."""


Limit = float | str
Targets = Mapping[Any, Limit]
"""What may be left of costs, by name or by factory (`CostFactory`)."""
Opener = Callable[[str], Any]
"""From what follows ``NAME:`` to calibration data in any form that ``calib`` takes."""


@dataclass(frozen=True)
class NamedCost:
    """A cost that a target limits.

    Attributes:
        name: Its name in reports.
        factory: What makes it; None for a cost that the package counts itself.
    """

    name: str
    factory: CostFactory | None


criteria: Registry[Criterion] = Registry(
    "importance",
    entry_points="onnxprune.criteria",
    home="onnxprune.importance.criteria",
    elsewhere={
        **dict.fromkeys(["magnitude", "l2norm", "l2-norm", "norm"], "l2"),
        **dict.fromkeys(["hessian", "obd"], "obs"),
        "gradient": "taylor",
        **dict.fromkeys(["bn", "slimming"], "bn-scale"),
    },
)
repairs: Registry[RepairMethod] = Registry("repair", entry_points="onnxprune.repairs")
costs: Registry[CostFactory | None] = Registry("target", entry_points="onnxprune.costs")
"""None stands for a cost that the package counts itself."""
sources: Registry[Opener] = Registry("calibration source", entry_points="onnxprune.sources")

OWN_REPAIRS = {"none": False, "data-free": False, "calibrated": True, "distilled": True}
"""The package's own repairs, and whether they take calibration data."""
OWN_COSTS = ("macs", "params", "bytes", "latency")
for _name, _data in OWN_REPAIRS.items():
    repairs.add(_name, RepairMethod(_name, None, _data))
for _name in OWN_COSTS:
    costs.add(_name, None)

Function = TypeVar("Function", bound=Callable[..., Any])


def _check_new(kind: str, name: object, function: object, own: Collection[str] = ()) -> None:
    """Raises InputError for what cannot be called, or takes a name that already has a fixed meaning."""
    if name in own:
        raise InputError(f"{kind} {name!r} is the package's own", "choose another name")
    if not callable(function):
        raise InputError(f"{kind} {name!r} must be a function, not {function!r}"[:200])


def criterion(name: str, *, needs: Needs = "weights", scale: Scale = "mean") -> Callable[[Function], Function]:
    """Registers a function that scores the units of a group, for ``importance=NAME`` and ``--importance NAME``.

    The function is given a `GroupView` and returns scores of shape (units,), the least important lowest.

    Args:
        name: The name.
        needs: ``moments`` for a function that asks for `GroupView.consumers`, ``gradients`` for one that asks for
            `GroupView.gate_gradients`; both take calibration data.
        scale: See `Criterion`.
    """
    _check_scoring(needs, scale)

    def register(function: Function) -> Function:
        _check_new("importance", name, function)
        known = criteria.get(name) if name in criteria else None
        elements = known.elements if known is not None and not known.channels and known.needs == needs else None
        criteria.add(name, Criterion(name, function, needs, scale, zeros=elements is not None, elements=elements))
        return function

    return register


def zero_criterion(name: str, *, needs: Needs = "weights") -> Callable[[Function], Function]:
    """Registers a function that scores the elements of a weight, for a pattern of zeros with ``importance=NAME``.

    The function is given a `WeightView` and returns scores of its shape, the least important lowest. A criterion of
    units that was registered under the same name (`criterion`) still ranks channels.

    Args:
        name: The name.
        needs: ``moments`` for a function that reads `WeightView.input_rms`, ``gradients`` for one that reads
            `WeightView.gradients`; both take calibration data. Weights without them, say of recurrent layers, are then
            ranked by magnitude.
    """
    _check_scoring(needs)

    def register(function: Function) -> Function:
        own = [n for n in criteria.names() if criteria.get(n).zeros and criteria.get(n).elements is None]
        _check_new("importance", name, function, own)
        units = criteria.get(name) if name in criteria else None
        if units is None or not units.channels:
            criteria.add(name, Criterion(name, None, needs, zeros=True, elements=function))
        elif units.needs != needs:
            raise InputError(f"importance {name!r} needs {units.needs} for channels, and would need {needs} for zeros")
        else:
            criteria.add(name, replace(units, zeros=True, elements=function))
        return function

    return register


def _check_scoring(needs: object, scale: object = "mean") -> None:
    if needs not in get_args(Needs) or scale not in ("mean", "none", "standard"):
        raise InputError(
            f"a criterion needs 'weights', 'moments' or 'gradients', and is scaled by 'mean', 'none' or 'standard', "
            f"not {needs!r} and {scale!r}"
        )


def repair_method(name: str, *, needs_data: bool = False) -> Callable[[Function], Function]:
    """Registers a function that refits a pruned model in place, for ``repair=NAME`` and ``--repair NAME``.

    The function is given a `pipeline.refit.RepairJob`. What it did is kept only where the outputs on samples that it
    has not seen come nearer to the original's.

    Args:
        name: The name.
        needs_data: Whether it takes calibration data.
    """

    def register(function: Function) -> Function:
        _check_new("repair", name, function, ["auto", *OWN_REPAIRS])
        repairs.add(name, RepairMethod(name, function, needs_data))
        return function

    return register


def cost_model(name: str) -> Callable[[Function], Function]:
    """Registers a factory of costs (`CostFactory`), for ``target={NAME: 0.5}`` and ``--target NAME=0.5``.

    ``target={FACTORY: 0.5}`` means the same in Python, and takes a factory that is not registered too.
    """

    def register(function: Function) -> Function:
        _check_new("target", name, function, OWN_COSTS)
        costs.add(name, function)
        return function

    return register


def data_source(name: str) -> Callable[[Function], Function]:
    """Registers a function that opens calibration data, for ``calib="NAME:REST"``; it is given ``REST``."""

    def register(function: Function) -> Function:
        _check_new("calibration source", name, function)
        sources.add(name, function)
        return function

    return register


def as_criterion(importance: str | Scorer) -> Criterion:
    """The criterion of a name; of a callable, which needs weights, one with its name.

    Raises:
        InputError: The name is unknown, or it is neither.
    """
    if isinstance(importance, str):
        return criteria.get(importance)
    if callable(importance):
        for name in criteria.names():
            if importance in (criteria.get(name).function, criteria.get(name).elements):
                return criteria.get(name)
        return Criterion(_name_of(importance), importance)
    raise InputError(f"importance must be a name or a function, not {importance!r}")


def as_cost(cost: str | CostFactory) -> NamedCost:
    """The cost of a name; of a factory, the one that it is registered as, else one with the factory's name.

    Raises:
        InputError: The name is unknown, or that of an unregistered factory means another cost; or it is neither.
    """
    if isinstance(cost, str):
        return NamedCost(cost, costs.get(cost))
    if not callable(cost):
        raise InputError(f"a target must be of a cost's name or factory, not {cost!r}"[:200])
    for known in costs.names():
        if costs.get(known) is cost:
            return NamedCost(known, cost)
    name = _name_of(cost)
    if name in costs:
        raise InputError(f"the name of cost {name!r} is that of another", "register it with onnxprune.cost_model(NAME)")
    return NamedCost(name, cost)


def _name_of(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def call(kind: str, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function that was added from outside, so that a fault in it is reported as its own.

    Args:
        kind: What was added, for the message.
        name: Its name.
        function: The function; the package's own are called as they are.
        arguments: What it is given.

    Raises:
        InputError: It raised something else than an error of this package.
    """
    if getattr(function, "__module__", "").partition(".")[0] == __name__.partition(".")[0]:
        return function(*arguments)
    try:
        return function(*arguments)
    except OnnxPruneError:
        raise
    except Exception as error:
        raise InputError(
            f"{kind} {name!r}, which was added to onnxprune, failed: {type(error).__name__}: {error}",
            "the fault is in the code that registered it",
        ) from error
