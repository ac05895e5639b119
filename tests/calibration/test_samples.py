"""Batches, limit, split and memory of calibration samples."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx
import pytest

from onnxprune.calibration import Samples, open_samples, samples
from onnxprune.errors import DataError, InputError
from onnxprune.runtime.session import session
from tests.calibration.cases import ONE, WIDE, Loader, error, firsts, model, rows, sizes, wide
from tests.support.paths import MODELS


@pytest.mark.parametrize("wrap", [lambda x: {"x": x}, lambda x: [{"x": a} for a in x], lambda x: iter([x[:3], x[3:]])])
def test_samples_that_do_not_fill_a_fixed_batch_are_dropped(wrap):
    samples = open_samples(wrap(rows(10)), model(("x", [4, 3])))
    assert sizes(samples) == [4, 4]
    assert samples.count == 8
    assert firsts(samples) == [3 * i for i in range(8)]
    fit, held = samples.split(0.5)
    assert sizes(fit) == sizes(held) == [4]
    assert sizes(open_samples(wrap(rows(10)), model(("x", [4, 3])), limit=7)) == [4]


def test_a_fixed_batch_needs_enough_samples():
    proto = model(("x", [4, 3]))
    assert "4 samples at a time" in error({"x": rows(3)}, proto)
    assert "4 samples at a time" in error({"x": rows(8)}, proto, limit=3)
    assert "fills a batch of 4" in error(iter([rows(3)]), proto)


@pytest.mark.parametrize(("room", "expected"), [(12 * 4, [4, 4, 2]), (2**20, [8, 2]), (1, [1] * 10)])
def test_batches_of_large_samples_are_smaller(monkeypatch, room, expected):
    monkeypatch.setattr(samples, "BATCH_BYTES", room)
    for source in ({"x": rows(10)}, [{"x": r[None]} for r in rows(10)], ({"x": r[None]} for r in rows(10))):
        opened = open_samples(source, ONE, batch=8)
        assert sizes(opened) == sizes(opened) == expected


def test_limit_and_split_depend_on_the_seed_alone():
    def drawn(seed):
        fit, held = open_samples({"x": rows(100)}, ONE, limit=50, seed=seed).split(0.2)
        return firsts(fit), firsts(held)

    assert drawn(1) == drawn(1) != drawn(2)
    fit, held = drawn(1)
    assert (len(fit), len(held)) == (40, 10)
    assert not set(fit) & set(held)
    assert fit == sorted(fit) and held == sorted(held)
    whole = open_samples({"x": rows(100)}, ONE, limit=50, seed=1)
    assert firsts(whole) == sorted(fit + held)


def test_parts_are_never_empty_and_can_be_split_again():
    for fraction in (0.01, 0.99):
        assert all(part.count == 1 for part in open_samples({"x": rows(2)}, ONE).split(fraction))
    fit, held = open_samples({"x": rows(20)}, ONE).split(0.5)
    again = [*fit.split(0.5), held]
    assert sorted(v for part in again for v in firsts(part)) == [3 * i for i in range(20)]
    with pytest.raises(InputError, match="1 sample cannot be split"):
        open_samples({"x": rows(1)}, ONE).split()
    with pytest.raises(InputError, match="fraction"):
        fit.split(1.0)


def test_labels_follow_limit_and_split():
    samples = open_samples({"x": rows(30), "labels": 3 * np.arange(30)}, ONE, limit=20)
    for part in (samples, *samples.split()):
        assert isinstance(part, Samples)
        assert firsts(part) == part.labels.tolist()


def test_progress():
    seen = []
    list(open_samples({"x": rows(70)}, ONE, progress=lambda *a: seen.append(a)).batches())
    assert seen == [(32, 70), (64, 70), (70, 70)]
    seen.clear()
    list(open_samples(Loader(), ONE, progress=lambda *a: seen.append(a)).batches())
    assert seen == [(32, None), (50, 50)]


def peak(run):
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npz", "callable", "kept"])
def test_memory_stays_bounded(tmp_path, kind):
    """200 samples are 12.5 MiB; batches of 8 are half of one."""
    proto = model(("x", ["N", WIDE]))
    if kind == "npz":
        np.savez_compressed(tmp_path / "c.npz", x=np.concatenate([f["x"] for f in wide()]))

    def run():
        source = {"npz": tmp_path / "c.npz", "callable": wide, "kept": wide()}[kind]
        samples = open_samples(source, proto, batch=8, memory=2**20)
        for part in (samples, *samples.split()):
            assert sum(sizes(part)) == part.count

    assert peak(run) < 5 * 2**20


def test_trained_models_run_on_the_samples():
    models = MODELS
    for name, layout in (("pt_resnet_bn", ""), ("keras_cnn", "_nhwc"), ("sk_mlp", "_flat")):
        proto = onnx.load(models / f"{name}.onnx")
        samples = open_samples(models / f"digits_calib{layout}.npz", proto, limit=40)
        runs = session(proto)
        assert sum(len(runs.run(None, batch)[0]) for batch in samples.batches()) == samples.count == 40


def test_a_fixed_batch_of_one_shape():
    """What does not fill it cannot be dropped in the middle: labels would belong to other samples."""
    proto = model(("x", [4, "L"]))
    three, two = np.zeros((4, 3), np.float32), np.zeros((4, 2), np.float32)
    assert sizes(open_samples([{"x": three}, {"x": two}], proto)) == [4, 4]
    mixed = [{"x": three[:2]}, {"x": two}]
    with pytest.raises(DataError, match="others of another shape follow 2"):
        list(open_samples(mixed, proto).batches())
