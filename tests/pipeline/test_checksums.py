"""What a run depends on: a folder of finished steps is that of other data where any of them changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxprune.pipeline.checksums import data_checksums


@pytest.mark.parametrize(
    ("options", "file"),
    [
        ({"calib": "d.npz"}, "d.npz"),
        ({"calib": "d.npz,labels=y,classes=c.txt"}, "c.txt"),
        ({"calib": "made:data"}, "made.py"),
        ({"calib": "texts.txt"}, "tokenizer.json"),
        ({"metric": "made:measure"}, "made.py"),
        ({"stats": "s.npz"}, "s.npz"),
    ],
)
def test_every_file_counts(options: dict[str, str], file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("d.npz", "c.txt", "made.py", "texts.txt", "tokenizer.json", "s.npz"):
        Path(name).write_text(name)
    before = data_checksums(options)
    assert data_checksums(options) == before
    Path(file).write_text("another")
    assert data_checksums(options) != before
