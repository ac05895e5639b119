"""The decorators that declare what is known of an operator, each fact beside the rule that it belongs to.

    @rule("Scale2", domain="my.ops", activation=True)
    def scale2(op):
        '''Element by element, f(0) = 0.'''
        for axis in op.input(0).axes():
            op.tie(axis, op.output().axis(axis.position), zero=True)

Only the rule is needed for pruning. `macs` lets the operator count in costs, `output_shape` gives a shape that ONNX
cannot infer, `weights` opens its constants to patterns of zeros, `affine` makes it a layer that repair refits.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from onnxprune.graph.graph import Node
from onnxprune.graph.operators import (
    AffineFunction,
    ClipFunction,
    Facts,
    GradientFunction,
    MacsFunction,
    OriginsFunction,
    PackingFunction,
    ShapeFunction,
    WeightFunction,
    declared,
    known_operators,
)
from onnxprune.ops.op import Op

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger(__name__)

Rule = Callable[[Op], None]
_F = TypeVar("_F", bound=Callable[..., Any])

REFUSALS = (LookupError, ValueError, ArithmeticError)
"""How a rule or a declaration refuses a node that it cannot follow; anything else that it raises is a fault of it."""


@dataclass(frozen=True)
class Entry:
    """A registered rule.

    Attributes:
        function: The rule.
        any_rank: Whether it copes with values of unknown rank; others are pinned without being called.
        note: One line for the table of supported operators.
    """

    function: Rule
    any_rank: bool
    note: str


def rule(
    *op_types: str,
    domain: str = "",
    since: int = 1,
    any_rank: bool = False,
    note: str | None = None,
    **facts: Unpack[Facts],
) -> Callable[[Rule], Rule]:
    """Registers a function as the coupling rule of some operators.

    A rule registered later for the same operator and version takes the place of the earlier one, so a caller may
    replace ours.

    Args:
        op_types: Operator names; one string may hold several, separated by spaces.
        domain: Operator domain, "" for the standard one.
        since: First opset version of the domain that the rule is for.
        any_rank: Whether the rule copes with values of unknown rank.
        note: One line for the table of supported operators; the docstring's first line by default.
        facts: Plain facts of the operators, see `facts_of`.

    Raises:
        TypeError: There is no such fact.
    """
    _check(facts)

    def register(function: Rule) -> Rule:
        line = note or (function.__doc__ or "").strip().split("\n")[0]
        for operator in declared(domain, " ".join(op_types)):
            operator.rules[:] = [r for r in operator.rules if r[0] != since]
            operator.rules.append((since, Entry(function, any_rank, line)))
            operator.rules.sort(key=lambda r: r[0])
        facts_of(*op_types, domain=domain, **facts)
        return function

    return register


def facts_of(*op_types: str, domain: str = "", **facts: Unpack[Facts]) -> None:
    """Declares plain facts of some operators; earlier declarations of other facts are kept.

    Args:
        op_types: Operator names; one string may hold several, separated by spaces.
        domain: Operator domain, "" for the standard one.
        facts: The facts, by the names that `onnxprune.graph.operators.Operator` documents.

    Raises:
        TypeError: There is no such fact.
    """
    _check(facts)
    if facts.get("zero_point") is not None:
        facts.setdefault("reads_zero_points", True)
    for operator in declared(domain, " ".join(op_types)):
        vars(operator).update(facts)


def _check(facts: Facts) -> None:
    for name in facts:
        if name not in Facts.__annotations__:
            raise TypeError(f"operators have no fact {name!r}: known are {', '.join(Facts.__annotations__)}")


def macs(*op_types: str, domain: str = "") -> Callable[[MacsFunction], MacsFunction]:
    """Registers the multiply-accumulates of some operators.

    The function gets a `Node` and gives terms, each a factor and the axes whose lengths it is multiplied with. The
    same terms count a model and predict what is left of it once channels are removed.
    """
    return _fact("macs", op_types, domain)


def output_shape(*op_types: str, domain: str = "") -> Callable[[ShapeFunction], ShapeFunction]:
    """Registers the output shapes of some operators: those, or free lengths, that ONNX's inference does not know."""
    return _fact("shape", op_types, domain)


def weights(*op_types: str, domain: str = "") -> Callable[[WeightFunction], WeightFunction]:
    """Registers how some operators multiply with constant operands, for patterns of zeros."""
    return _fact("weights", op_types, domain)


def packs(*op_types: str, domain: str = "") -> Callable[[PackingFunction], PackingFunction]:
    """Registers which channels the packed constant operands of some operators hold, for widths that are rounded."""
    return _fact("packs", op_types, domain)


def affine(*op_types: str, domain: str = "") -> Callable[[AffineFunction], AffineFunction]:
    """Registers some operators as layers that repair refits: affine functions of one activation."""
    return _fact("affine", op_types, domain)


def origins(*op_types: str, domain: str = "") -> Callable[[OriginsFunction], OriginsFunction]:
    """Registers where the axes of the output of some operators come from."""
    return _fact("origins", op_types, domain)


def clips(*op_types: str, domain: str = "") -> Callable[[ClipFunction], ClipFunction]:
    """Registers the bounds that some operators clip their first input to; infinite where they are unknown."""
    return _fact("clips", op_types, domain)


def gradient(
    *op_types: str, domain: str = "", parameters: tuple[int, ...] = ()
) -> Callable[[GradientFunction], GradientFunction]:
    """Registers how gradients of some operators' inputs are computed from those of their outputs.

    The function gets an `ops.gradients.node_gradient.NodeGradient` and adds nodes to its graph; it raises LookupError,
    with a reason, for what it does not cover.

    Args:
        op_types: Operator names; one string may hold several, separated by spaces.
        domain: Operator domain, "" for the standard one.
        parameters: Inputs that hold what training sets (weights, biases), where they are constants.
    """

    def register(function: GradientFunction) -> GradientFunction:
        for operator in declared(domain, " ".join(op_types)):
            operator.gradient, operator.parameters = function, parameters
        return function

    return register


def _fact(name: str, op_types: tuple[str, ...], domain: str) -> Callable[[_F], _F]:
    def register(function: _F) -> _F:
        for operator in declared(domain, " ".join(op_types)):
            setattr(operator, name, _guarded(name, function))
        return function

    return register


_UNKNOWN: dict[str, Any] = {
    "shape": [],
    "weights": "how its operator reads it could not be determined",
    "packs": {},
    "affine": (),
    "origins": (),
    "clips": (-math.inf, math.inf),
}
"""Results of declarations for nodes that they cannot follow; one of MACs raises LookupError."""


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A declaration that never ends a run: where it fails, its fact is unknown for the node."""

    @functools.wraps(function)
    def guarded(node: Node, *rest: Any) -> Any:
        try:
            found = function(node, *rest)
            return list(found) if name in ("macs", "affine") else found
        except Exception as e:  # whatever the declaration does wrong
            level = logging.DEBUG if isinstance(e, REFUSALS) else logging.WARNING
            logger.log(level, "the declaration (%s) of %s failed", name, node.label, exc_info=True)
            if name == "macs":
                raise LookupError(f"the MACs of {node.label} are not known") from e
            return _UNKNOWN[name]

    return guarded


def forget(*op_types: str, domain: str = "") -> None:
    """Withdraws everything that was declared of some operators, in a test or a notebook, say."""
    for op_type in " ".join(op_types).split():
        known_operators().pop((domain, op_type), None)


def find(domain: str, op_type: str, version: int) -> Entry | None:
    """The rule of an operator at an opset version, None where there is none."""
    operator = known_operators().get((domain, op_type))
    entries = [entry for since, entry in (operator.rules if operator is not None else []) if since <= version]
    return entries[-1] if entries else None


def table() -> list[tuple[str, str, int, str]]:
    """Every operator with a rule: domain, name, first version, note; sorted."""
    return sorted(
        (domain, op_type, since, entry.note)
        for (domain, op_type), operator in known_operators().items()
        for since, entry in operator.rules
    )
