"""Imports inside the package run only down the list: somebody new may read it from the top."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import onnxprune

ROOT = Path(onnxprune.__file__).parent

LAYERS = """
    errors centred
    patterns
    worker
    isolation
    steady
    options text recipe names replacing
    tensors
    topology
    wellformed external
    model
    inputs storage anonymous
    graph
    dataflow contrib_shapes
    operand_shapes
    shapes
    ties
    ops.registry
    ops
    components
    decide groups
    seams
    coupling
    cost
    runtime
    linear_maps pieces
    products segments
    observe logits
    stats
    scoring.magnitude scoring.geometric scoring.obs scoring.integers
    scoring.activation
    scoring
    resize
    allocate costs
    budget
    removal narrowing
    rounds reorder divergence
    sparsity
    masking
    planning
    calibration
    layer_weights
    trials
    damage
    repair
    informed selection
    verification
    zeroing storing
    permuting gates search
    report clock
    analysis result
    weighing
    flow
    api
    cli
    __main__
"""
"""From the bottom up; a package stands for its modules. Modules of one line do not import each other."""

RANK = {name: i for i, line in enumerate(LAYERS.strip().splitlines()) for name in line.split()}

LATE = {("__init__", "api"), ("__init__", "options"), ("__init__", "planning"), ("__init__", "ops.registry")}
"""Imports of the package itself, which are for type checkers only: the names are found when first used."""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = sorted(name_of(p) for p in ROOT.rglob("*.py"))


def file_of(name: str) -> Path:
    module = ROOT / (name.replace(".", "/") + ".py")
    return module if module.exists() else ROOT / name.replace(".", "/") / "__init__.py"


def imports(name: str, *, late: bool) -> set[str]:
    """Modules of the package that one imports, at its top or (`late`) anywhere in it."""
    tree = ast.parse(file_of(name).read_text())
    nodes = ast.walk(tree) if late else iter(tree.body)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {a.name.removeprefix("onnxprune.") for a in node.names if a.name.startswith("onnxprune.")}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "onnxprune":
            assert node.level == 0
            base = node.module.removeprefix("onnxprune").removeprefix(".")
            for a in node.names:
                inner = f"{base}.{a.name}".removeprefix(".")
                found.add(inner if inner in MODULES else base)
    return found - {"", name}


def rank(name: str) -> int | None:
    """Place in the list, that of the package where a module is not named itself."""
    while name not in RANK and "." in name:
        name = name.rpartition(".")[0]
    return RANK.get(name)


def test_every_module_has_its_place() -> None:
    assert [m for m in MODULES if rank(m) is None and m != "__init__"] == []


def test_every_place_has_its_module() -> None:
    """The list must not keep names that are gone."""
    assert [n for n in RANK if n not in MODULES and not any(m.startswith(n + ".") for m in MODULES)] == []


@pytest.mark.parametrize("module", [m for m in MODULES if m != "__init__"])
def test_imports_run_down_the_list(module: str) -> None:
    mine = rank(module)
    assert mine is not None
    for other in imports(module, late=True):
        theirs = rank(other)
        assert theirs is not None, f"{module} imports {other}, which has no place"
        same_package = module.split(".")[0] == other.split(".")[0]
        assert theirs < mine or (theirs == mine and same_package), f"{module} imports {other}, which is above it"


def test_there_are_no_circles() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for other in sorted(imports(module, late=False)):
                visit(other, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_the_package_itself_loads_nothing_but_the_errors() -> None:
    """``--help`` must not wait for onnx."""
    assert imports("__init__", late=False) == {"errors"}
    assert {("__init__", m) for m in imports("__init__", late=True)} - {("__init__", "errors")} == LATE


def test_errors_import_nothing() -> None:
    tree = ast.parse(file_of("errors").read_text())
    modules = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert modules == ["__future__"] and not any(isinstance(n, ast.Import) for n in ast.walk(tree))
