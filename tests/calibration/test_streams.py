"""Lists, iterables, functions and data readers as calibration data."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.calibration import open_samples
from onnxprune.errors import InputError
from tests.calibration.cases import ONE, Loader, Reader, Rewindable, firsts, model, rows, sizes


def test_list_is_random_access():
    feeds = [{"x": rows(40)[i : i + 1]} for i in range(40)]
    samples = open_samples(feeds, ONE, limit=10, batch=4)
    assert sizes(samples) == [4, 4, 2] and samples.count == 10
    assert firsts(samples) != [3 * i for i in range(10)]


@pytest.mark.parametrize(
    "make",
    [
        Loader,
        lambda: lambda: iter(Loader()),
        lambda: lambda: Reader(list(Loader())),
        lambda: iter(Loader()),
        lambda: Reader(list(Loader())),
        lambda: Rewindable(list(Loader())),
    ],
    ids=["iterable", "callable", "callable of a reader", "iterator", "reader", "reader with rewind"],
)
def test_streams(make):
    samples = open_samples(make(), ONE, batch=8)
    assert samples.count is None
    assert sizes(samples) == [8] * 6 + [2]
    assert samples.count == 50
    assert firsts(samples) == [3 * i for i in range(50)]
    fit, held = samples.split()
    assert (fit.count, held.count) == (40, 10)
    assert sorted(firsts(fit) + firsts(held)) == [3 * i for i in range(50)]
    limited = open_samples(make(), ONE, limit=7)
    assert firsts(limited) == [3 * i for i in range(7)]
    assert limited.count == 7
    fit, held = open_samples(make(), ONE, limit=2).split()
    assert (fit.count, held.count) == (1, 1)


def test_folds_count_a_stream_first():
    folds = open_samples(iter(Loader()), ONE).folds(2)
    assert [(others.count, own.count) for others, own in folds] == [(25, 25), (25, 25)]


def test_onnxruntime_reader():
    quantization = pytest.importorskip("onnxruntime.quantization.calibrate")

    class Data(quantization.CalibrationDataReader):
        def __init__(self):
            self.feeds = iter(Loader())

        def get_next(self):
            return next(self.feeds, None)

    samples = open_samples(Data(), ONE)
    assert firsts(samples) == firsts(samples) == [3 * i for i in range(50)]


def test_rewind_is_used_instead_of_a_cache():
    reader = Rewindable(list(Loader()))
    samples = open_samples(reader, ONE, batch=5)
    assert firsts(samples) == firsts(samples)
    assert reader.rewinds == 1
    both = zip(samples.batches(), samples.batches(), strict=True)
    with pytest.raises(InputError, match="rewound while"):
        list(both)


def test_cached_streams_allow_concurrent_passes():
    samples = open_samples(iter(Loader()), ONE, batch=5)
    for a, b in zip(samples.batches(), samples.batches(), strict=True):
        assert np.array_equal(a["x"], b["x"])


def test_a_generator_may_reuse_its_array():
    def make():
        array = np.zeros((1, 3), "f")
        for i in range(6):
            array[:] = i
            yield {"x": array}

    for source in (make, make()):
        samples = open_samples(source, ONE)
        assert firsts(samples) == firsts(samples) == list(range(6))


def test_feeds_without_a_common_batch_axis_are_not_divided():
    proto = model(("x", ["batch", "time", 2]), ("h", [2, "n", 4]))
    feeds = [{"x": np.ones((2, 3, 2), "f"), "h": np.ones((2, 2, 4), "f")}] * 5
    samples = open_samples(iter(feeds), proto)
    assert [b["x"].shape[0] for b in samples.batches()] == [2] * 5
    assert samples.count == 5


def test_shuffled_streams_are_refused():
    state = np.random.default_rng(0)
    samples = open_samples(lambda: iter([{"x": state.random((2, 3), "f")} for _ in range(3)]), ONE)
    firsts(samples)
    with pytest.raises(InputError, match="other samples the second time"):
        firsts(samples)
    once = iter(Loader())
    samples = open_samples(lambda: once, ONE)
    firsts(samples)
    with pytest.raises(InputError, match="nothing the second time"):
        firsts(samples)


def test_a_cached_stream_raises_its_error_again():
    def make():
        yield {"x": rows(1)}
        raise ValueError("gone")

    samples = open_samples(make(), ONE)
    for _ in range(2):
        with pytest.raises(InputError, match=r"sample 1 .*gone"):
            firsts(samples)
