"""Labels from every kind of source, in the order of the samples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxprune.calibration import open_samples
from onnxprune.calibration.labels import read_classes
from onnxprune.calibration.samples import Samples
from onnxprune.errors import DataError
from tests.calibration.cases import ONE, STATEFUL, error, firsts, model, rows

PICTURES = model(("x", ["N", 3, 4, 4]))


def labels_of(samples: Samples) -> list[Any]:
    assert samples.labels is not None
    found: list[Any] = samples.labels.tolist()
    return found


@pytest.mark.parametrize("name", ["labels", "label", "y"])
def test_usual_names(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "c.npz", x=rows(9), **{name: 3 * np.arange(9)})
    samples = open_samples(tmp_path / "c.npz", ONE, limit=5)
    assert firsts(samples) == labels_of(samples) and samples.unused == ()


def test_the_first_usual_name_counts_and_the_others_are_unused() -> None:
    samples = open_samples({"x": rows(4), "y": np.zeros(4), "label": np.arange(4)}, ONE)
    assert labels_of(samples) == [0, 1, 2, 3] and samples.unused == ("y",)


def test_an_input_is_no_label() -> None:
    samples = open_samples({"y": rows(3), "label": np.arange(3)}, model(("y", ["N", 3])))
    assert labels_of(samples) == [0, 1, 2]
    assert open_samples({"y": rows(3)}, model(("y", ["N", 3]))).labels is None


def test_a_name_in_the_spec(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", x=rows(4), y=np.zeros(4), truth=np.arange(4))
    samples = open_samples(f"{tmp_path}/c.npz,labels=truth", ONE)
    assert labels_of(samples) == [0, 1, 2, 3] and samples.unused == ("y",)
    assert "no array 'truht' of labels | is it 'truth'?" in error(f"{tmp_path}/c.npz,labels=truht")
    assert "labels=x is an input of the model" in error(f"{tmp_path}/c.npz,labels=x")


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "bool", "U5"])
def test_types_are_kept(dtype: str) -> None:
    given = np.arange(4).astype(dtype)
    found = open_samples({"x": rows(4), "y": given}, ONE).labels
    assert found is not None and found.dtype == given.dtype and np.array_equal(found, given)


def test_labels_of_positions() -> None:
    given = np.arange(24).reshape(4, 2, 3)
    samples = open_samples({"x": rows(4), "labels": given}, ONE)
    _, held = samples.split(0.5)
    assert np.array_equal(np.array(labels_of(held)), given[[int(f) // 3 for f in firsts(held)]])


def named(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"truth" if k == "labels" else k: v for k, v in item.items()} for item in items]


FEEDS = [{"x": rows(10)[i : i + 2], "labels": 3 * np.arange(i, i + 2)} for i in range(0, 10, 2)]
SINGLE = [{"x": rows(10)[i], "labels": 3 * i} for i in range(10)]


@pytest.mark.parametrize("feeds", [FEEDS, SINGLE])
def test_streams(feeds: list[dict[str, Any]]) -> None:
    """What is read once, what is read again and again, and a list give the same samples with the same labels."""
    for source in (feeds, iter(feeds), lambda: iter(feeds)):
        for limit in (None, 7):
            fit, held = open_samples(source, ONE, limit=limit).split(0.3)
            assert firsts(fit) == labels_of(fit) and firsts(held) == labels_of(held)
            assert firsts(held) == labels_of(held)  # in a second pass
            source = iter(feeds) if hasattr(source, "__next__") else source


def test_feeds_that_are_not_divided() -> None:
    """A feed is a sample, and has one label."""
    feeds = [{"x": np.full((1, 5, 2), i, "f"), "h": np.zeros((2, 1, 4), "f"), "y": i} for i in range(6)]
    for source in (feeds, iter(feeds)):
        fit, held = open_samples(source, STATEFUL).split(0.5)
        for part in (fit, held):
            assert [float(b["x"].max()) for b in part.batches()] == labels_of(part)


def test_a_function_with_named_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labelled_by_test.py").write_text(
        "import numpy as np\n"
        "def feeds():\n    for i in range(6):\n        yield {'x': np.full((1, 3), i, 'f'), 'truth': np.array([i])}\n"
    )
    fit, held = open_samples("labelled_by_test:feeds,labels=truth", ONE).split(0.3)
    assert firsts(fit) == labels_of(fit) and firsts(held) == labels_of(held)


def test_faults_in_streams() -> None:
    def some() -> Iterator[dict[str, Any]]:
        yield SINGLE[0]
        yield {"x": rows(1)}

    assert "sample 1: earlier samples have labels, later ones have none" in error(some)
    assert "later samples have labels" in error([{"x": rows(1)}, SINGLE[0]].__iter__)
    assert "'labels' has shape (3,), but there are 2 samples" in error(iter([{"x": rows(2), "labels": [1, 2, 3]}]))
    shapes = [{"x": rows(1), "labels": np.zeros((1, n))} for n in (2, 3)]
    with pytest.raises(DataError, match=r"labels differ in shape: \(2,\) and \(3,\)"):
        open_samples(iter(shapes), ONE).split(0.5)[1].labels  # noqa: B018


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Pictures of two classes, whose brightness is that of the class."""
    image = pytest.importorskip("PIL.Image")
    for name, value, count in (("cat", 30, 3), ("dog", 60, 2)):
        (tmp_path / "set" / name / "more").mkdir(parents=True)
        for i in range(count):
            inner = "more" if i == 0 else ""
            image.new("RGB", (4, 4), (value,) * 3).save(tmp_path / "set" / name / inner / f"{i}.png")
    return tmp_path / "set"


def brightness(samples: Samples) -> list[int]:
    return [round(float(v) * 255) for b in samples.batches() for v in b["x"][:, 0, 0, 0]]


def test_folders_are_classes(folders: Path) -> None:
    samples = open_samples(folders, PICTURES)
    assert [{30: 0, 60: 1}[b] for b in brightness(samples)] == labels_of(samples)
    assert samples.classes == 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.txt", "bird\ndog\nfish\ncat\n"),
        ("c.json", json.dumps(["bird", "dog", "fish", "cat"])),
        ("c.json", json.dumps({"cat": 3, "dog": 1})),
        ("c.json", json.dumps({"1": ["dog", "Hund"], "3": ["cat", "Katze"]})),
    ],
)
def test_folders_by_a_list_of_classes(folders: Path, name: str, content: str) -> None:
    (folders.parent / name).write_text(content)
    samples = open_samples(f"{folders},classes={folders.parent / name}", PICTURES)
    assert [{30: 3, 60: 1}[b] for b in brightness(samples)] == labels_of(samples)


def test_folders_that_are_no_classes(folders: Path) -> None:
    assert open_samples(folders / "cat" / "more", PICTURES).labels is None  # in the folder itself
    (folders / "cat" / "1.png").rename(folders / "1.png")
    assert open_samples(folders, PICTURES).labels is None  # some in a folder, some not
    (folders.parent / "c.txt").write_text("cat\ndog")
    assert "1.png is in no folder of a class" in error(f"{folders},classes={folders.parent / 'c.txt'}", PICTURES)
    assert open_samples(folders / "cat", PICTURES).labels is None  # all in one


def test_a_folder_that_is_no_class(folders: Path) -> None:
    (folders.parent / "c.txt").write_text("cats\ndog")
    said = error(f"{folders},classes={folders.parent / 'c.txt'}", PICTURES)
    assert "class 'cat' is not among the 2 that classes= names | did you mean 'cats'?" in said


def test_classes_without_labels(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("no\nyes\n")
    np.savez(tmp_path / "c.npz", x=rows(3))
    assert "there are none | add an array of them" in error(f"{tmp_path}/c.npz,classes={tmp_path}/c.txt")


def test_labels_that_are_names(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("no\nyes\n")
    np.savez(tmp_path / "c.npz", x=rows(3), y=["yes", "no", "yes"])
    assert labels_of(open_samples(f"{tmp_path}/c.npz,classes={tmp_path}/c.txt", ONE)) == [1, 0, 1]
    np.savez(tmp_path / "n.npz", x=rows(3), y=[1, 0, 1])
    assert "labels are int64, not names" in error(f"{tmp_path}/n.npz,classes={tmp_path}/c.txt")


@pytest.mark.parametrize(
    ("name", "content"),
    [("c.json", "{"), ("c.json", "3"), ("c.json", "[1]"), ("c.json", '{"a": "b"}'), ("c.txt", "a\n\nb"), ("c.txt", "")],
)
def test_files_that_list_no_classes(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=r"cannot be read|is no list of classes"):
        read_classes(str(tmp_path / name))


def test_a_name_of_several_classes_is_no_label(tmp_path: Path) -> None:
    """As crane, the bird and the machine, among those of ImageNet; labels that do not use it are fine."""
    (tmp_path / "c.txt").write_text("crane\nheron\ncrane\n")
    for names, found in ((["heron", "heron", "heron"], [1, 1, 1]), (["heron", "crane", "heron"], None)):
        np.savez(tmp_path / "c.npz", x=rows(3), y=names)
        spec = f"{tmp_path}/c.npz,classes={tmp_path}/c.txt"
        if found is None:
            assert "several classes are called 'crane'" in error(spec)
        else:
            assert labels_of(open_samples(spec, ONE)) == found
