"""Every error that a user can cause says in one line what is wrong, and in a second one what to do about it."""

from __future__ import annotations

import ast
import inspect
import json
import pickle
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune import errors
from tests.support import bad_files
from tests.support.commands import Cli, assert_refused, contents, tiny
from tests.support.error_rows import CIRCUMSTANCES, ROWS, Row
from tests.support.lanes import spread
from tests.support.paths import PACKAGE
from tests.support.sources import FILES, parsed, source
from tools import error_table

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `bad_files`."""
    made = tmp_path_factory.mktemp("bad")
    bad_files.make(made, json.loads(onnxprune.prune(tiny(), 0.5, repair="none").plan.to_json()))
    return made


@pytest.mark.parametrize("row", spread(r for rows in ROWS.values() for r in rows), ids=lambda r: r.command or "nothing")
def test_what_is_printed(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, row: Row) -> None:
    """Exactly these two lines, exit code 2, and no file comes or goes."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = contents(folder)
    said = assert_refused(cli(*shlex.split(row.command)))
    assert said == f"error: {row.error}\nhint: {row.hint}\n"
    assert contents(folder) == before


def test_the_documented_table() -> None:
    """tests/errors.md is what the tool makes of the rows."""
    written = Path(error_table.TARGET).read_text(encoding="utf-8")
    assert written == error_table.document()
    for row in [*CIRCUMSTANCES, *(r for rows in ROWS.values() for r in rows)]:
        assert f"| {row.what} |" in written


BOUNDED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
from onnxprune.cli import main
code = main(sys.argv[2:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
sys.exit(code)
"""


def shaped(node: str, *, x: str = "float[1, 8]", **constants: list[int]) -> onnx.ModelProto:
    """A model of one node behind two matrix products, with whole numbers as constants."""
    head = f'<ir_version: 8, opset_import: ["" : 17]> g ({x} x) => (float y) {{ {node} }}'
    proto = onnx.parser.parse_model(head)
    for name, values in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(values, "int64"), name))
    return proto


@pytest.mark.slow
@pytest.mark.parametrize(
    "proto",
    [
        shaped("y = Expand (x, s)", s=[2**40, 8]),
        shaped("y = Pad (x, s)", s=[0, 2**40, 0, 0]),
        shaped("y = Tile (x, s)", s=[2**33, 2**20]),
        shaped("y = ConstantOfShape (s)", s=[2**20, 2**20]),
        shaped("y = Reshape (x, s)", s=[2**18, 2**18], x=f"float[1, {2**36}]"),
        shaped("y = Relu (x)", x=f"float[{2**40}]"),
        shaped("h = Reshape (x, s) y = Relu (h)", s=[-1, 2**19], x=f"float[{2**20}, {2**20}]"),
        shaped("y = Relu (x)", x="float[" + ", ".join(["8388608"] * 300) + "]"),
    ],
    ids=["expand", "pad", "tile", "fill", "reshape", "input", "merge", "axes"],
)
def test_sizes_that_only_a_shape_states_take_no_memory(tmp_path: Path, proto: onnx.ModelProto) -> None:
    """A kilobyte can state any length; what is analysed is bounded by what the weights hold."""
    onnx.save(proto, tmp_path / "m.onnx")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            BOUNDED,
            str(6 * 2**30),
            tmp_path / "m.onnx",
            "--ratio",
            "0.5",
            "--no-verify",
            "--repair",
            "none",
            "--quiet",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1000


def test_every_error_has_a_hint() -> None:
    """Each kind of error knows what usually helps, so none is without."""
    assert {k.__name__ for k in KINDS} >= {"InputError", "ModelError", "OutputError", "VerificationError"}
    for kind in KINDS:
        error = kind("what\nand  where")
        assert (error.message, error.hint.source) == ("what and where", kind.usual_hint)
        again = pickle.loads(pickle.dumps(kind("m", "h")))
        assert (type(again), again.message, again.hint) == (kind, "m", "h")
    assert {k: k.exit_code for k in KINDS} == {
        errors.OnnxPruneError: 4,
        errors.InternalError: 4,
        errors.VerificationError: 3,
        errors.GateError: 5,
        errors.TimeLimitError: 5,
        **dict.fromkeys(
            (
                errors.InputError,
                errors.ModelError,
                errors.DataError,
                errors.PlanError,
                errors.RunError,
                errors.OutputError,
            ),
            2,
        ),
    }


def calls(name: str) -> list[str]:
    """Places in the package that call a function of this name."""
    return [
        f"{path.relative_to(PACKAGE)}: {ast.unparse(node)}"
        for path in FILES
        if f"{name}(" in source(path)
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and name in (getattr(node.func, "attr", None), getattr(node.func, "id", None))
    ]


SENT = ("runtime/distributed/worker.py: pickle.loads(function)", "runtime/distributed/worker.py: pickle.loads(task)")
"""What a Dask worker is sent by the run."""


@pytest.mark.slow
def test_nothing_is_run_or_unpickled() -> None:
    """Arrays are loaded without pickle, and modules only where the caller named one.

    Pickles go through the pipe to the process of onnxruntime, which this program started itself, and to and from the
    workers of a Dask cluster that the caller named.
    """
    assert all("allow_pickle=False" in call for call in calls("load") if "np.load" in call)
    assert len([call for call in calls("load") if "np.load" in call]) >= 5
    for name in ("eval", "exec", "loads", "__import__"):
        assert [c for c in calls(name) if "json." not in c and "tomllib." not in c and c not in SENT] == [], name
    assert {c.split(":")[0] for c in calls("import_module")} == {
        "__init__.py",  # the public names, on first use
        "cli/verbs.py",  # the verbs, each when it is called
        "extensions/registry.py",  # the package's own entries; plug-ins are entry points of what is installed
        "common/importing.py",  # what --calib, --metric, --loss or --engine names
        "planning/checkpoints/arrays.py",  # readers that are extras
    }
    named_for_its_error = {"torch_file.py"}
    pickled = {"process.py", "worker.py", "dask_executor.py"}
    assert {p.name for p in FILES if "import pickle" in source(p)} == pickled | named_for_its_error
    assert {c for c in calls("load") if "pickle." in c} == {
        "runtime/process.py: pickle.load(self.process.stdout)",
        "runtime/worker.py: pickle.load(sys.stdin.buffer)",
    }
    assert {c.split(":")[0] for c in calls("import_object")} == {
        "calibration/sources.py",
        "timing/engines.py",
        "losses/functions.py",
        "extensions/metrics.py",
    }


SILENT = """
import sys
import numpy as np
import onnxprune
x = np.random.default_rng(0).standard_normal((16, 3, 16, 16)).astype(np.float32)
made = onnxprune.prune(sys.argv[1], 0.5, calib={"x": x})
made.save(sys.argv[2])
onnxprune.apply(made.plan, sys.argv[1])
onnxprune.verify(sys.argv[1], made)
try:
    onnxprune.prune(sys.argv[1] + "x", 0.5)
except onnxprune.InputError:
    pass
"""


@pytest.mark.slow
def test_the_api_never_prints(model: Path) -> None:
    """Neither on stdout nor on stderr, whatever happens."""
    done = subprocess.run(
        [sys.executable, "-c", SILENT, model, model.parent / "out.onnx"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not calls("print") or all(c.startswith("report/tables.py: console.print(") for c in calls("print"))
