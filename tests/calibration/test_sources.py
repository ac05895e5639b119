"""What is accepted as a source of calibration data: paths, functions by name, and objects."""

from __future__ import annotations

import sys

import numpy as np

from onnxprune.calibration import open_samples
from tests.calibration.cases import ONE, Reader, error, firsts, rows


def test_function_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "given_by_test.py").write_text(
        "import numpy as np\ndef feeds():\n    import also_given_by_test\n"
        "    for i in range(also_given_by_test.N):\n        yield {'x': np.full((1, 3), i, 'float32')}\n"
        "def broken():\n    yield from feeds()\n    raise KeyError('lost')\ndef needs(x): ...\nnumber = 3\n"
    )
    (tmp_path / "also_given_by_test.py").write_text("N = 4\n")
    (tmp_path / "bad_given_by_test.py").write_text("1 / 0\n")
    samples = open_samples("given_by_test:feeds", ONE)
    assert firsts(samples) == firsts(samples) == [0, 1, 2, 3]
    assert "sample 4 (from 0) could not be read: KeyError: 'lost'" in error("given_by_test:broken")
    assert "no 'feds'" in error("given_by_test:feds") and "feeds" in error("given_by_test:feds")
    assert "calling it failed" in error("given_by_test:needs")
    assert "is int" in error("given_by_test:number")
    assert "no module no_such_module" in error("no_such_module:f")
    assert "ZeroDivisionError" in error("bad_given_by_test:f")
    assert "only mean something for a folder of images" in error("given_by_test:feeds,mean=1")


def test_sources_without_samples_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "calib.npz", x=rows(0))
    assert "no files in this folder" in error(tmp_path / "empty")
    assert "has 0 samples, but at least 1" in error(tmp_path / "calib.npz")
    assert "no such file or folder | did you mean" in error(str(tmp_path / "calb.npz"))
    assert "no such file or folder" in error(tmp_path / "calb.npz")
    for source in ([], {"x": rows(0)}, [{"x": rows(0)}]):
        assert "has 0 samples" in error(source)
    for source in (iter([]), Reader([]), lambda: iter([])):
        assert "has no samples" in error(source)
    assert "which gives no samples" in error(3)
    assert "limit must be at least 1" in error(rows(3), limit=0)
    assert "batch must be at least 1" in error(rows(3), batch=0)
