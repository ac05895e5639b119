"""Calibration data: every kind of source, what is refused, and that order, parts and memory are as promised."""

import sys
import tracemalloc

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxprune.calibration import Samples, open_samples, samples
from onnxprune.calibration.signature import interface_of
from onnxprune.errors import InputError
from onnxprune.runtime.session import session
from tests.paths import MODELS

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def model(*inputs):
    """A model that hands its inputs on; each is (name, shape) or (name, shape, type)."""
    kinds = [(i[0], i[1], i[2] if len(i) > 2 else FLOAT) for i in inputs]
    graph = helper.make_graph(
        [helper.make_node("Identity", [n], [f"{n}_out"]) for n, _, _ in kinds],
        "g",
        [helper.make_tensor_value_info(n, k, s) for n, s, k in kinds],
        [helper.make_tensor_value_info(f"{n}_out", k, None) for n, _, k in kinds],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


ONE = model(("x", ["N", 3]))
TWO = model(("ids", ["batch", "seq"], INT64), ("mask", ["batch", "seq"], INT64))
STATEFUL = model(("x", [1, 5, 2]), ("h", [2, 1, 4]))


def rows(n, width=3, dtype="f"):
    """n samples that differ in every place."""
    return np.arange(n * width, dtype=dtype).reshape(n, width)


def firsts(samples, name="x"):
    """The first number of every sample, over all batches."""
    return [float(v) for b in samples.batches() for v in b[name].reshape(len(b[name]), -1)[:, 0]]


def sizes(samples, name="x"):
    return [len(batch[name]) for batch in samples.batches()]


def error(source, proto=ONE, **options):
    """The error that opening or reading ends in."""
    with pytest.raises(InputError) as caught:
        for _ in open_samples(source, proto, **options).batches():
            pass
    assert caught.value.exit_code == 2
    return f"{caught.value.message} | {caught.value.hint}"


class Reader:
    """A data reader in the manner of onnxruntime's."""

    def __init__(self, feeds):
        self.feeds, self.place = feeds, 0

    def get_next(self):
        self.place += 1
        return self.feeds[self.place - 1] if self.place <= len(self.feeds) else None


class Rewindable(Reader):
    rewinds = 0

    def rewind(self):
        self.rewinds += 1
        self.place = 0


# --- arrays


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_by_name(tmp_path, save):
    save(tmp_path / "c.npz", x=rows(70), labels=np.arange(70), note=np.zeros(2))
    samples = open_samples(str(tmp_path / "c.npz"), ONE)
    assert (samples.count, samples.unused) == (70, ("note",))
    assert sizes(samples) == [32, 32, 6]
    assert np.array_equal(np.concatenate([b["x"] for b in samples]), rows(70))
    assert np.array_equal(samples.labels, np.arange(70))


def test_npz_without_a_name_and_npy(tmp_path):
    np.savez(tmp_path / "c.npz", rows(4), labels=np.arange(4))
    np.save(tmp_path / "c.npy", rows(4))
    for path in (tmp_path / "c.npz", tmp_path / "c.npy"):
        samples = open_samples(path, ONE)
        assert firsts(samples) == [0, 3, 6, 9]
        assert samples.unused == ()


def test_arrays_in_other_orders(tmp_path):
    """Samples along axis 1, and members in Fortran order, are read like any other."""
    proto, data = model(("x", ["time", "batch", 2])), np.arange(3 * 7 * 2, dtype="f").reshape(3, 7, 2)
    for array in (data, np.asfortranarray(data)):
        np.savez(tmp_path / "c.npz", x=array)
        batches = list(open_samples(tmp_path / "c.npz", proto, batch=4).batches())
        assert [b["x"].shape for b in batches] == [(3, 4, 2), (3, 3, 2)]
        assert np.array_equal(np.concatenate([b["x"] for b in batches], axis=1), data)


def test_dict_and_single_array():
    assert firsts(open_samples({"x": rows(3)}, ONE)) == firsts(open_samples(rows(3), ONE)) == [0, 3, 6]


def test_labels_that_are_an_input():
    proto = model(("x", ["N", 3]), ("labels", ["N"], INT64))
    samples = open_samples({"x": rows(3), "labels": np.arange(3)}, proto)
    assert samples.labels is None
    assert np.array_equal(next(samples.batches())["labels"], np.arange(3))


def test_one_rank_more_is_a_feed_each():
    x, h = rows(6, 10).reshape(6, 1, 5, 2), rows(6, 8).reshape(6, 2, 1, 4)
    for given in ({"x": x, "h": h}, {"x": x[:, 0], "h": h}):  # x also as rows of its fixed batch of 1
        samples = open_samples(given | {"labels": np.arange(6)}, STATEFUL, limit=4)
        batches = list(samples.batches())
        assert len(batches) == samples.count == 4
        for batch, label in zip(batches, samples.labels, strict=True):
            assert np.array_equal(batch["x"], x[label]) and np.array_equal(batch["h"], h[label])


def test_an_array_that_is_the_same_for_all():
    x, h, scale = rows(6, 10).reshape(6, 5, 2), rows(2, 4).reshape(2, 1, 4), np.float32(2)
    batches = list(open_samples({"x": x, "h": h}, STATEFUL).batches())
    assert len(batches) == 6 and all(np.array_equal(b["h"], h) for b in batches)
    proto = model(("x", ["N", 3]), ("scale", []))
    assert [b["scale"].shape for b in open_samples({"x": rows(2), "scale": scale}, proto)] == [(), ()]


def test_a_first_axis_that_is_no_batch():
    proto = model(("x", ["seq_len", 3]))
    assert open_samples(rows(9), proto).count == 1
    assert open_samples(np.stack([rows(9)] * 5), proto).count == 5


# --- fixed batches


def test_fixed_batch_of_one():
    samples = open_samples({"x": rows(5)}, model(("x", [1, 3])))
    assert sizes(samples) == [1] * 5 and samples.count == 5


@pytest.mark.parametrize("wrap", [lambda x: {"x": x}, lambda x: [{"x": a} for a in x], lambda x: iter([x[:3], x[3:]])])
def test_fixed_batch_drops_what_does_not_fill_it(wrap):
    samples = open_samples(wrap(rows(10)), model(("x", [4, 3])))
    assert sizes(samples) == [4, 4]
    assert samples.count == 8
    assert firsts(samples) == [3 * i for i in range(8)]
    fit, held = samples.split(0.5)
    assert sizes(fit) == sizes(held) == [4]
    assert sizes(open_samples(wrap(rows(10)), model(("x", [4, 3])), limit=7)) == [4]


def test_fixed_batch_needs_enough():
    proto = model(("x", [4, 3]))
    assert "4 samples at a time" in error({"x": rows(3)}, proto)
    assert "4 samples at a time" in error({"x": rows(8)}, proto, limit=3)
    assert "fills a batch of 4" in error(iter([rows(3)]), proto)


# --- folders of arrays


def test_folder_of_npy(tmp_path):
    """Sorted by name; a file is one sample without a batch axis, or a batch."""
    np.save(tmp_path / "b.npy", rows(3)[2])
    np.save(tmp_path / "a.npy", rows(3)[:2])
    (tmp_path / ".hidden.npy").write_bytes(b"")
    samples = open_samples(tmp_path, ONE)
    assert (samples.count, firsts(samples), sizes(samples)) == (3, [0, 3, 6], [3])


def test_folder_of_npz_with_several_inputs_and_labels(tmp_path):
    for i in range(4):
        ids = np.full((2, 3 + i // 2), i)
        np.savez(tmp_path / f"{i}.npz", ids=ids, mask=np.ones_like(ids), labels=[i, 10 + i])
    samples = open_samples(tmp_path, TWO)
    assert [b["ids"].shape for b in samples.batches()] == [(4, 3), (4, 4)]  # joined while lengths agree
    fit, held = samples.split(0.25)
    for part in (fit, held):
        ids = np.concatenate([b["ids"][:, 0] for b in part.batches()])
        assert np.array_equal(part.labels % 10, ids)
    assert fit.count + held.count == samples.count == 8


# --- iterables, functions, readers


def test_list_is_random_access():
    feeds = [{"x": rows(40)[i : i + 1]} for i in range(40)]
    samples = open_samples(feeds, ONE, limit=10, batch=4)
    assert sizes(samples) == [4, 4, 2] and samples.count == 10
    assert firsts(samples) != [3 * i for i in range(10)]


class Loader:
    """Can be iterated again and again; has no length."""

    def __iter__(self):
        return iter([{"x": rows(50)[i : i + 5]} for i in range(0, 50, 5)])


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


def test_onnxruntime_reader():
    quantization = pytest.importorskip("onnxruntime.quantization.calibrate")

    class Data(quantization.CalibrationDataReader):
        def __init__(self):
            self.feeds = iter(Loader())

        def get_next(self):
            return next(self.feeds, None)

    samples = open_samples(Data(), ONE)
    assert firsts(samples) == firsts(samples) == [3 * i for i in range(50)]


def test_rewind_is_used_instead_of_keeping():
    reader = Rewindable(list(Loader()))
    samples = open_samples(reader, ONE, batch=5)
    assert firsts(samples) == firsts(samples)
    assert reader.rewinds == 1
    both = zip(samples.batches(), samples.batches(), strict=True)
    with pytest.raises(InputError, match="rewound while"):
        list(both)


def test_kept_streams_may_be_read_twice_at_once():
    samples = open_samples(iter(Loader()), ONE, batch=5)
    for a, b in zip(samples.batches(), samples.batches(), strict=True):
        assert np.array_equal(a["x"], b["x"])


def test_a_maker_that_uses_one_array_again():
    def make():
        array = np.zeros((1, 3), "f")
        for i in range(6):
            array[:] = i
            yield {"x": array}

    for source in (make, make()):
        samples = open_samples(source, ONE)
        assert firsts(samples) == firsts(samples) == list(range(6))


@pytest.mark.parametrize("as_file", [False, True])
def test_single_numbers_are_arrays_that_the_model_takes(as_file, tmp_path):
    proto = model(("x", ["N", 3]), ("flag", [], TensorProto.BOOL))
    source = {"x": rows(4).reshape(4, 1, 3), "flag": np.array([True, False, True, True])}
    if as_file:
        np.savez(tmp_path / "s.npz", **source)
        source = tmp_path / "s.npz"
    feeds = list(open_samples(source, proto).batches())
    runs = session(proto)
    assert [bool(runs.run(["flag_out"], f)[0]) for f in feeds] == [True, False, True, True]


@pytest.mark.parametrize(("room", "expected"), [(12 * 4, [4, 4, 2]), (2**20, [8, 2]), (1, [1] * 10)])
def test_batches_of_large_samples_are_smaller(monkeypatch, room, expected):
    monkeypatch.setattr(samples, "BATCH_BYTES", room)
    for source in ({"x": rows(10)}, [{"x": r[None]} for r in rows(10)], ({"x": r[None]} for r in rows(10))):
        opened = open_samples(source, ONE, batch=8)
        assert sizes(opened) == sizes(opened) == expected


def test_feeds_without_a_common_batch_axis_stay_whole():
    proto = model(("x", ["batch", "time", 2]), ("h", [2, "n", 4]))
    feeds = [{"x": np.ones((2, 3, 2), "f"), "h": np.ones((2, 2, 4), "f")}] * 5
    samples = open_samples(iter(feeds), proto)
    assert [b["x"].shape[0] for b in samples.batches()] == [2] * 5
    assert samples.count == 5


def test_shuffled_streams_are_noticed():
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


def test_a_kept_stream_that_broke_does_not_look_shorter_later():
    def make():
        yield {"x": rows(1)}
        raise ValueError("gone")

    samples = open_samples(make(), ONE)
    for _ in range(2):
        with pytest.raises(InputError, match=r"sample 1 .*gone"):
            firsts(samples)


# --- order, limit, parts


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


# --- types


@pytest.mark.parametrize(
    ("given", "kind", "expected"),
    [
        (np.float64([[1.5]]), FLOAT, np.float32),
        (np.float32([[1.5]]), TensorProto.FLOAT16, np.float16),
        (np.float32([[1.5]]), TensorProto.BFLOAT16, ml_dtypes.bfloat16),
        (np.array([[1.5]], ml_dtypes.bfloat16), TensorProto.BFLOAT16, ml_dtypes.bfloat16),
        (np.int32([[7]]), INT64, np.int64),
        (np.int64([[7]]), TensorProto.INT32, np.int32),
        (np.array([[True]]), INT64, np.int64),
        (np.array([["a"]]), TensorProto.STRING, object),
        (np.array([["a"]], object), TensorProto.STRING, object),
    ],
)
def test_casts_that_lose_nothing(tmp_path, given, kind, expected):
    proto = model(("x", ["N", 1], kind))
    sources = [{"x": given}, iter([{"x": given}])]
    if not given.dtype.hasobject:
        np.savez(tmp_path / "c.npz", x=given)
        sources.append(tmp_path / "c.npz")
    for source in sources:
        (batch,) = open_samples(source, proto, memory=0).batches()
        assert batch["x"].dtype == expected
        assert batch["x"].tolist() == given.tolist()


def test_kept_on_disk_in_any_type():
    for kind, given in (
        (TensorProto.BFLOAT16, np.float32([[1.5], [2]])),
        (TensorProto.STRING, np.array([["a"], ["bc"]])),
    ):
        samples = open_samples(iter([given, given]), model(("x", ["N", 1], kind)), memory=0)
        for _ in range(2):
            (batch,) = samples.batches()
            assert batch["x"].tolist() == given.tolist() * 2


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (np.uint8([[7]]), FLOAT, "uint8, but the model takes float32"),
        (np.float32([[7]]), INT64, "float32, but the model takes int64"),
        (np.int64([[2**40]]), TensorProto.INT32, "values that int32 cannot hold"),
        (np.float32([[1e30]]), TensorProto.FLOAT16, "values that float16 cannot hold"),
        (np.zeros((1, 1), "V4"), FLOAT, "|V4, but the model takes float32"),
        (np.int64([[1]]), TensorProto.BOOL, "int64, but the model takes bool"),
        (np.float32([[1]]), TensorProto.STRING, "takes strings"),
        (np.array([[None]]), TensorProto.STRING, "other than strings"),
    ],
)
def test_casts_that_are_refused(given, kind, words):
    proto = model(("x", ["N", 1], kind))
    for source in ({"x": given}, [{"x": given}], iter([given])):
        assert words in error(source, proto)


# --- what is refused


def test_names():
    assert "nothing for input 'ids' | is it 'IDs'? given: IDs, mask" in error({"IDs": rows(1), "mask": rows(1)}, TWO)
    assert "nothing for input 'mask'" in error(iter([{"ids": np.ones((1, 2), int)}]), TWO)
    assert "is ndarray, not a dict" in error(iter([np.ones((1, 2), int)]), TWO)
    assert "is str, not a dict" in error(iter({"x": 1}))


def test_shapes():
    picture = model(("x", ["N", 3, 8, 8]))
    message = error({"x": np.ones((5, 8, 8, 3), "f")}, picture)
    assert "'x' is 5x8x8x3, but the model takes Nx3x8x8" in message and "transpose(0, 3, 1, 2)" in message
    assert "'x' is 8, but" in error({"x": np.ones(8, "f")}, picture)
    assert "sample 2: 'x' is 1x4" in error(iter([rows(2), rows(1, 4)]))
    ids = np.ones((3, 2), int)
    assert "'ids' has 3" in error({"ids": ids, "mask": ids[:2]}, TWO)
    assert "'mask' has 2 samples" in error([{"ids": ids, "mask": ids[:2]}], TWO)
    assert "'labels' has shape (2,), but there are 3" in error({"x": rows(3), "labels": np.ones(2)})
    ragged = {"x": [[1.0], [1.0, 2.0]]}
    for source in (ragged, [ragged], iter([ragged])):
        assert "cannot be made" in error(source)


def test_nothing_there(tmp_path):
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


def test_files_that_are_no_arrays(tmp_path):
    np.savez(tmp_path / "whole.npz", x=rows(5000))
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "short.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npy").write_text("hello")
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 255
    (tmp_path / "damaged.npz").write_bytes(damaged)
    np.savez(tmp_path / "objects.npz", x=np.array([[None]]))
    (tmp_path / "c.csv").write_text("1,2")
    for name in ("short.npz", "text.npy", "damaged.npz"):
        assert "cannot be read" in error(tmp_path / name)
    assert "Python objects" in error(tmp_path / "objects.npz")
    assert "neither .npz nor .npy" in error(tmp_path / "c.csv")


def test_models_that_cannot_be_fed():
    with pytest.raises(InputError, match="no inputs"):
        open_samples([], model())
    proto = model(("x", [1]))
    proto.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, [1])))
    with pytest.raises(InputError, match="is a sequence"):
        open_samples([], proto)


# --- images


@pytest.fixture
def pictures(tmp_path):
    """Two pictures of 4x6 pixels in a folder, and their pixels."""
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    (tmp_path / "set").mkdir()
    for name, array in zip(("a.png", "b.ppm"), pixels, strict=True):
        image.fromarray(array).save(tmp_path / "set" / name)
    return tmp_path / "set", pixels.astype("f")


def only(samples):
    (batch,) = samples.batches()
    return batch["x"]


def test_images_against_arithmetic(pictures):
    folder, pixels = pictures
    nchw = model(("x", ["N", 3, 4, 6]))
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    expected = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2)
    got = only(open_samples(f"{folder},mean=0.485:0.456:0.406,std=0.229:0.224:0.225", nchw))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    assert np.array_equal(only(open_samples(str(folder), nchw)), pixels.transpose(0, 3, 1, 2) / np.float32(255))
    # Mean and std above 1 are in units of 0 to 255.
    got = only(open_samples(f"{folder},mean=123,std=58", nchw))
    np.testing.assert_allclose(got, (pixels.transpose(0, 3, 1, 2) - 123) / 58, rtol=1e-6)
    got = only(open_samples(f"{folder},scale=127.5,mean=1,color=bgr", nchw))
    np.testing.assert_allclose(got, (pixels[..., ::-1] / np.float32(127.5) - 1).transpose(0, 3, 1, 2), rtol=1e-6)


def test_image_layouts_and_types(pictures):
    folder, pixels = pictures
    assert np.array_equal(only(open_samples(folder, model(("x", ["N", 4, 6, 3], TensorProto.UINT8)))), pixels)
    got = only(open_samples(f"{folder},mean=128", model(("x", ["N", 4, 6, 3], TensorProto.INT8))))
    assert np.array_equal(got, pixels - 128)
    free = model(("x", ["N", "c", "h", "w"], TensorProto.FLOAT16))
    assert only(open_samples(f"{folder},layout=nhwc", free)).shape == (2, 4, 6, 3)
    grey = only(open_samples(folder, model(("x", [None, 1, None, None]))))
    np.testing.assert_allclose(grey[:, 0], pixels @ np.float32([0.299, 0.587, 0.114]) / 255, atol=1 / 255)


def test_image_sizes(pictures):
    folder, pixels = pictures
    free, fixed = model(("x", ["N", 3, "h", "w"])), model(("x", ["N", 3, 2, 2]))
    cropped = only(open_samples(f"{folder},crop=2x4,scale=1", free))
    assert np.array_equal(cropped, pixels[:, 1:3, 1:5].transpose(0, 3, 1, 2))
    assert only(open_samples(f"{folder},resize=8", free)).shape == (2, 3, 8, 12)
    assert only(open_samples(f"{folder},resize=5x7", free)).shape == (2, 3, 5, 7)
    assert only(open_samples(f"{folder},resize=8,crop=6", free)).shape == (2, 3, 6, 6)
    assert only(open_samples(folder, fixed)).shape == (2, 3, 2, 2)
    middle = only(open_samples(f"{folder},resize=4,scale=1", fixed))  # the shorter side is 4 already
    assert np.array_equal(middle, pixels[:, 1:3, 2:4].transpose(0, 3, 1, 2))
    assert sizes(open_samples(folder, model(("x", [1, 3, 4, 6])))) == [1, 1]


def test_images_of_different_sizes_and_folders(pictures):
    folder, _ = pictures
    image = pytest.importorskip("PIL.Image")
    (folder / "c").mkdir()
    image.new("RGBA", (3, 3)).save(folder / "c" / "z.png")
    free = model(("x", ["N", 3, "h", "w"]))
    assert [b["x"].shape for b in open_samples(folder, free)] == [(2, 3, 4, 6), (1, 3, 3, 3)]
    samples = open_samples(folder, free, limit=2)
    assert samples.count == 2


def test_images_are_decoded_only_when_wanted(pictures):
    folder, _ = pictures
    (folder / "z.png").write_bytes(b"broken")
    proto = model(("x", ["N", 3, 4, 6]))
    assert "z.png: cannot be read as a picture" in error(folder, proto)
    assert open_samples(folder, proto).count == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("men=1", "unknown image option 'men' | did you mean 'mean'?"),
        ("mean", "mean has no value"),
        ("mean=a", "mean: 'a' is not a number"),
        ("mean=1:2", "mean has 2 numbers, but there are 3 channels"),
        ("std=0", "std must not be 0"),
        ("scale=1,scale=2", "scale is given twice"),
        ("layout=nchv", "unknown layout 'nchv' | did you mean 'nchw'?"),
        ("resize=big", "resize: 'big' is not a size"),
        ("crop=0", "crop: '0' is not a size"),
        ("crop=5", "4x6 pixels are too few to crop 5x5"),
        ("crop=3", "'x' is 1x3x3x3, but the model takes Nx3x4x6"),
        ("layout=nhwc", "the model takes 6 channels"),
    ],
)
def test_image_options_that_do_not_fit(pictures, options, words):
    assert words in error(f"{pictures[0]},{options}", model(("x", ["N", 3, 4, 6])))


def test_models_that_take_no_images(pictures):
    folder, _ = pictures
    assert "which is no batch of images" in error(folder)
    assert "images feed one input" in error(folder, TWO)
    assert "layout=nchw or" in error(folder, model(("x", ["N", "c", "h", "w"])))
    assert "takes bool, not pixels" in error(folder, model(("x", ["N", 3, 4, 6], TensorProto.BOOL)))
    assert "cannot hold" in error(f"{folder},mean=128", model(("x", ["N", 3, 4, 6], TensorProto.UINT8)))
    np.save(folder / "x.npy", rows(1))
    assert "both images and arrays" in error(folder)


def test_without_pillow(pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert "needs pillow | pip install 'onnxprune[images]'" in error(pictures[0], model(("x", ["N", 3, 4, 6])))


# --- memory


def peak(run):
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


WIDE = 16384  # floats of a sample: 64 KiB


def wide():
    for i in range(200):
        yield {"x": np.full((1, WIDE), i, "f")}


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


def test_kept_samples_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    samples = open_samples(wide(), model(("x", ["N", WIDE])), limit=20, memory=2**17)
    assert firsts(samples) == firsts(samples) == list(range(20))
    assert len(list(tmp_path.glob("*/*.npy"))) == 18
    del samples
    assert not list(tmp_path.iterdir())


# --- the real thing


def test_stored_models_run_on_it():
    models = MODELS
    for name, layout in (("pt_resnet_bn", ""), ("keras_cnn", "_nhwc"), ("sk_mlp", "_flat")):
        proto = onnx.load(models / f"{name}.onnx")
        samples = open_samples(models / f"digits_calib{layout}.npz", proto, limit=40)
        runs = session(proto)
        assert sum(len(runs.run(None, batch)[0]) for batch in samples.batches()) == samples.count == 40


# --- what is a batch axis


@pytest.mark.parametrize(
    ("inputs", "axes", "cut"),
    [
        ([("x", ["N", 3])], [0], True),
        ([("x", [None, 3])], [0], True),
        ([("x", ["samples", 3])], [0], True),
        ([("x", ["num_tokens", 3])], [None], False),
        ([("x", [])], [None], False),
        ([("x", [4, 3])], [0], True),
        ([("ids", ["batch", "seq"]), ("past", ["batch", 4, "past", 8])], [0, 0], True),
        ([("x", ["seq", "batch", 2]), ("h", [2, "batch", 4])], [1, 1], True),
        ([("x", [1, 128]), ("mask", [1, 128])], [0, 0], True),
        ([("x", [1, 5, 2]), ("h", [2, 1, 4])], [0, 0], False),
        ([("x", [None, 3]), ("y", [None, 3])], [0, 0], False),
        ([("x", ["batch", 3]), ("size", [2])], [0, None], False),
        ([("x", ["batch", 3]), ("y", ["batch_1", 3])], [0, 0], False),
    ],
)
def test_batch_axes(inputs, axes, cut):
    interface = interface_of(model(*inputs))
    assert [port.axis for port in interface.ports] == axes
    assert interface.safe == cut


def test_an_input_of_undeclared_rank():
    proto = model(("x", [1]))
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    assert sizes(open_samples(rows(5), proto, batch=2)) == [2, 2, 1]
    assert "'x' is a scalar, but the model takes any shape" in error({"x": np.float32(1)}, proto)
