"""Imports inside the package run only down the list: it can be read from the top."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import PACKAGE, ROOT
from tests.support.sources import FILES, parsed, source

ORDER = """
    errors
    common
    extensions
    engines
    options
    model
    graph
    ops layers runtime
    coupling gradients
    verification
    losses
    cost
    edit
    planning
    calibration
    statistics
    importance
    allocation
    timing
    sparsity
    repair
    training
    report
    pipeline
    api testing
    cli
    __main__
"""
"""Packages and modules from the bottom up. Those of one line do not import each other, unless one is in it."""

RANK = {name: i for i, line in enumerate(ORDER.strip().splitlines()) for name in line.split()}

LATE = {
    ("__init__", "extensions.points"),
    ("__init__", "extensions.views"),
    ("__init__", "extensions.patterns"),
    ("__init__", "extensions.metrics"),
    ("__init__", "planning.checkpoints.slice"),
    ("__init__", "importance.group_lasso"),
    ("__init__", "report.report"),
    ("__init__", "pipeline.compare"),
    ("__init__", "pipeline.refit"),
    ("__init__", "pipeline.finetune"),
    ("__init__", "pipeline.sensitivity"),
    ("__init__", "pipeline.sensitivity"),
    ("__init__", "pipeline.sweep"),
    ("__init__", "pipeline.vocabulary"),
    ("__init__", "repair.layerwise"),
    ("__init__", "api"),
    ("__init__", "options"),
    ("__init__", "planning.plan"),
    ("__init__", "common.progress"),
    ("__init__", "ops.registry"),
    ("__init__", "engines.times"),
}
"""Imports of the package itself, which are for type checkers only: the names are found when first used."""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = sorted(name_of(p) for p in FILES)


def file_of(name: str) -> Path:
    module = PACKAGE / (name.replace(".", "/") + ".py")
    return module if module.exists() else PACKAGE / name.replace(".", "/") / "__init__.py"


def top(name: str) -> str:
    return name.split(".")[0]


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements in a node, at any depth; expressions are not entered."""
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        inner = getattr(node, field, ())
        for statement in inner if isinstance(inner, list) else ():
            yield statement
            yield from statements(statement)


def imports(name: str, *, late: bool) -> set[str]:
    """Modules of the package that one imports, at its top or (`late`) anywhere in it."""
    tree = parsed(file_of(name))
    found = set()
    for node in statements(tree) if late else iter(tree.body):
        if isinstance(node, ast.Import):
            found |= {a.name.removeprefix("onnxprune.") for a in node.names if a.name.startswith("onnxprune.")}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "onnxprune":
            assert node.level == 0
            base = node.module.removeprefix("onnxprune").removeprefix(".")
            for a in node.names:
                inner = f"{base}.{a.name}".removeprefix(".")
                found.add(inner if inner in MODULES else base)
    return found - {"", name}


def test_the_list_names_what_is_there() -> None:
    assert set(RANK) == {top(m) for m in MODULES} - {"__init__"}


def test_imports_run_down_the_list() -> None:
    pairs = [(m, other) for m in MODULES if m != "__init__" for other in sorted(imports(m, late=True))]
    assert [(m, o) for m, o in pairs if top(o) != top(m) and RANK[top(o)] >= RANK[top(m)]] == []


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
    tree = parsed(file_of("errors"))
    modules = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert modules == ["__future__"] and not any(isinstance(n, ast.Import) for n in ast.walk(tree))


def test_files_are_short() -> None:
    """Those of the tests and tools as well."""
    files = [*FILES, *(p for name in ("tests", "tools") for p in (ROOT / name).rglob("*.py"))]
    assert {str(p): n for p in files if (n := len(source(p).splitlines())) >= 350} == {}
