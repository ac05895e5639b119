"""A cost that is registered from outside is a target like any other, and met by what the result costs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import onnxprune
from onnxprune.cost.cost_model import LengthProducts
from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Group
from onnxprune.errors import InputError
from onnxprune.extensions import points
from tests.ops.case import build


@pytest.fixture(autouse=True)
def activations() -> Iterator[None]:
    """Elements of all products' outputs, of which MACs say nothing."""

    @onnxprune.cost_model("activations")
    def cost(coupling: Coupling, groups: Sequence[Group], shapes: Mapping[str, Sequence[int]]) -> LengthProducts:
        outputs = [node.output() for node in coupling.graph.main.nodes if node.op_type == "MatMul"]
        batch = {v.name: shapes[v.name][0] for v in outputs}
        return LengthProducts(coupling, groups, [(float(batch[v.name]), v.axes()[1:]) for v in outputs])

    @onnxprune.cost_model("nonsense")
    def nonsense(*_: object) -> int:
        return 3

    yield
    for name in ("activations", "nonsense"):
        points.costs.remove(name)


def model() -> onnx.ModelProto:
    return build("""(float[N,16] x) => (float[N,4] y) <float[16,64] w, float[64,32] u, float[32,4] z>
        { a = MatMul(x, w)  b = Relu(a)  c = MatMul(b, u)  d = Relu(c)  y = MatMul(d, z) }""")


def widths(proto: onnx.ModelProto) -> int:
    """The same count by the weights' shapes."""
    return sum(int(t.dims[1]) for t in proto.graph.initializer)


@pytest.mark.slow
def test_it_is_met_by_what_the_result_costs() -> None:
    assert widths(model()) == 64 + 32 + 4
    target = onnxprune.prune(model(), target={"activations": 0.6}, repair="none")
    assert widths(target.proto) <= 60
    report = target.report.targets["activations"]
    assert (report.asked, report.left, report.met) == (60.0, widths(target.proto), True)


@pytest.mark.slow
def test_it_stands_beside_another() -> None:
    result = onnxprune.prune(model(), target={"activations": 90, "params": 0.5}, repair="none")
    assert widths(result.proto) <= 90
    stored = sum(int(np.prod(t.dims)) for t in result.proto.graph.initializer)
    assert stored <= 0.5 * (16 * 64 + 64 * 32 + 32 * 4)
    assert {name for name, t in result.report.targets.items() if t.met} == {"activations", "params"}


def test_one_that_cannot_be_met_says_so() -> None:
    result = onnxprune.prune(model(), target={"activations": 5}, repair="none")
    report = result.report.targets["activations"]
    assert not report.met and report.left == widths(result.proto) == 1 + 1 + 4


def test_a_factory_that_returns_no_cost_is_refused() -> None:
    with pytest.raises(InputError, match="'nonsense' must return an object with left and saving"):
        onnxprune.prune(model(), target={"nonsense": 0.5}, repair="none")


class Fixed:
    """A cost whose numbers are of the kind that a test asks for."""

    def __init__(self, units: int, kind: Any) -> None:
        self.units, self.kind = units, kind

    def left(self, removed: NDArray[np.int64]) -> Any:
        return self.kind(self.units - removed.sum())

    def saving(self, removed: NDArray[np.int64], group: int, more: int) -> Any:
        return self.kind(more)


@pytest.fixture
def of_kind() -> Iterator[Callable[[Any], None]]:
    """Registers the cost ``units`` with numbers of some kind."""

    def register(kind: Any) -> None:
        onnxprune.cost_model("units")(lambda coupling, *_: Fixed(sum(g.units for g in coupling.groups), kind))

    yield register
    points.costs.remove("units")


@pytest.mark.parametrize("kind", [int, np.int64, np.float32, np.array])
def test_whatever_number_it_returns_the_report_is_plain_json(of_kind: Callable[[Any], None], kind: Any) -> None:
    of_kind(kind)
    result = onnxprune.prune(model(), target={"units": 0.6}, repair="none")
    target = result.report.targets["units"]
    assert target.met is True and type(target.left) is float and target.left <= 0.6 * (16 + 64 + 32 + 4)
    assert json.loads(result.report.to_json())["targets"]["units"]["left"] == target.left


@pytest.mark.parametrize("kind", [lambda n: float("nan"), lambda n: float("inf"), lambda n: None, str])
def test_what_is_no_number_is_refused(of_kind: Callable[[Any], None], kind: Any) -> None:
    of_kind(lambda n: "many" if kind is str else kind(n))
    with pytest.raises(InputError, match="of cost 'units' must return a finite number"):
        onnxprune.prune(model(), target={"units": 0.6}, repair="none")


class Units:
    """A factory that is an object: it counts the units of the groups it is given, or of all."""

    def __call__(self, coupling: Coupling, groups: Sequence[Group], shapes: object) -> Fixed:
        return Fixed(sum(g.units for g in groups or coupling.groups), float)


@pytest.mark.slow
def test_a_factory_is_a_target() -> None:
    """What is registered is known by its factory too, under its name; what is not has the factory's name."""
    by_name = onnxprune.prune(model(), target={"activations": 0.6}, repair="none")
    by_factory = onnxprune.prune(model(), target={points.costs.get("activations"): 0.6}, repair="none")
    assert by_factory.proto == by_name.proto and set(by_factory.report.targets) == {"activations"}
    assert by_factory.report.options == by_name.report.options
    unknown = onnxprune.prune(model(), target={Units(): 70, "params": 0.9}, repair="none")
    left = unknown.report.targets["Units"]
    assert left.asked == 70 and left.left == sum(g.units for g in onnxprune.analyze(unknown.proto).groups)
    assert left.met is (left.left <= 70) and "Units" not in points.costs.names()
    assert json.loads(unknown.report.to_json())["options"]["target"] == {"Units": 70, "params": 0.9}


@pytest.mark.slow
def test_a_factory_is_a_target_of_steps_and_of_a_search() -> None:
    """Their intermediate targets are of the same cost."""
    data = {"x": np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)}
    stepped = onnxprune.prune(model(), target={Units(): 70}, calib=data, repair="none", steps=2)
    assert stepped.report.targets["Units"].left is not None
    searched = onnxprune.prune(model(), target={Units(): 70}, gate={"drift": 5.0}, drift_search=True, repair="none")
    assert searched.report.search is not None
    assert all(set(trial.target or {}) == {"Units"} for trial in searched.report.search.trials)


def macs(*_: object) -> None:
    """A factory whose name means something else."""


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({macs: 0.5}, "the name of cost 'macs' is that of another"),
        ({5: 0.5}, "target must be a mapping such as"),
        ({"": 0.5}, "target must be a mapping such as"),
        ({"activation": 0.5}, "unknown target 'activation'"),
        ({Units(): "most"}, "target Units=most is no number"),
        ({Units(): 0}, "target Units=0 leaves nothing"),
        ({Units(): 0.5, Units(): 0.4}, "two targets are of one cost"),
    ],
)
def test_targets_that_are_refused(target: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        onnxprune.prune(model(), target=target, repair="none")
