"""Gradients of GroupQueryAttention: those of its parts, and central differences, in onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import pytest

import onnxprune
from onnxprune.gradients.differentiate import differentiate
from onnxprune.model.model import Model
from tests.gradients.test_differentiate import fed
from tests.gradients.test_fused import assert_alike
from tests.ops.case import build
from tools.decoder_graph import Shape, decoder, feeds, random_weights

HEADS, PAIRS, STEPS, TURNED = 4, 2, 5, 8


@dataclass(frozen=True)
class Variant:
    """What a node has.

    Attributes:
        packed: Whether queries, keys and values are one input.
        rotary: "", "halves", "pairs" or "part" (halves of the first half of each head).
        cached: Whether the node has caches of length 0.
        ends: Lengths of the sequences.
        window: How many keys a query sees; 0 for all.
        cap: What scores stay below; 0 for no such limit.
        bias: Whether something is added to the scores.
        scale: Factor of the scores; 0 for that of the heads' size.
    """

    packed: bool = False
    rotary: str = ""
    cached: bool = False
    ends: tuple[int, int] = (STEPS, STEPS)
    window: int = 0
    cap: float = 0.0
    bias: bool = False
    scale: float = 0.0

    @property
    def size(self) -> int:
        """Size of a head."""
        return 32 if self.rotary == "part" else 16

    @property
    def names(self) -> list[str]:
        """Inputs that have a gradient."""
        return [*(["x"] if self.packed else ["x", "s", "w"]), *(["b"] if self.bias else [])]

    def interface(self) -> str:
        """Inputs, outputs and constants."""
        size = self.size
        x = [f"float[2,{STEPS},{n * size}]" for n in ((8,) if self.packed else (HEADS, PAIRS, PAIRS))]
        inputs = [f"{kind} {name}" for kind, name in zip(x, "xsw", strict=False)]
        if self.cached:
            inputs += [f"float[2,{PAIRS},0,{size}] {name}" for name in ("pk", "pv")]
        if self.bias:
            inputs.append(f"float[1,{HEADS},{STEPS},{STEPS}] b")
        cache = f"float[2,{PAIRS},{STEPS},{size}]"
        outputs = f"float[2,{STEPS},{HEADS * size}] y, {cache} ck, {cache} cv"
        constants = (
            f"float[20,{TURNED}] tc, float[20,{TURNED}] ts, int32[2] ends, int32 total, int64[4] parts, int64[4] kparts, "
            f"int64[3] whole, int64[3] cuts, int64[{STEPS}] at, int64[{size}] order, int64[{size}] back, int64[{2 + (size > 2 * TURNED)}] widths, "
            f"float factor, float most, float[{STEPS},{STEPS}] least, float[2,{STEPS}] real, int64[3] ends1, int64[4] ends3, int64[4] twice"
        )
        return f"({', '.join(inputs)}) => ({outputs}) <{constants}>"

    def constants(self) -> dict[str, Any]:
        """What the constants hold."""
        size = self.size
        angles = np.outer(np.arange(20), 10.0 ** -np.arange(TURNED))
        order = np.arange(size)
        if self.rotary == "pairs":
            order = np.concatenate([order[::2], order[1::2]])
        rows, columns = np.arange(STEPS)[:, None], np.arange(STEPS)
        seen = columns <= rows
        if self.window:
            seen &= columns > rows - self.window
        return {
            "tc": np.cos(angles),
            "ts": np.sin(angles),
            "ends": np.array(self.ends) - 1,
            "total": STEPS,
            "parts": [0, 0, HEADS, size],
            "kparts": [0, 0, PAIRS, size],
            "whole": [0, 0, HEADS * size],
            "cuts": [HEADS * size, PAIRS * size, PAIRS * size],
            "widths": [TURNED, TURNED, *([size - 2 * TURNED] if size > 2 * TURNED else [])],
            "at": np.arange(STEPS),
            "order": order,
            "back": np.argsort(order),
            "factor": self.scale or size**-0.5,
            "most": self.cap or 1.0,
            "least": np.where(seen, 0, -1e30),
            "real": np.arange(STEPS) < np.reshape(self.ends, (2, 1)),
            "twice": [0, 0, 1, 1],
            "ends1": [2, STEPS, 1],
            "ends3": [2, 1, STEPS, 1],
        }

    def node(self) -> str:
        """The fused node."""
        given = "x, , " if self.packed else "x, s, w"
        given += ", pk, pv" if self.cached else ", , "
        given += ", ends, total" + (", tc, ts" if self.rotary else ", , ") + (", , b" if self.bias else "")
        attributes = {
            "num_heads": HEADS,
            "kv_num_heads": PAIRS,
            "do_rotary": int(bool(self.rotary)),
            "rotary_interleaved": int(self.rotary == "pairs"),
            "local_window_size": self.window or -1,
            "softcap": self.cap,
            "scale": self.scale,
        }
        words = ", ".join(f"{name} = {value}" for name, value in attributes.items())
        return f"y, ck, cv = com.microsoft.GroupQueryAttention <{words}> ({given})"

    def turned(self, name: str) -> str:
        """Nodes that rotate something."""
        if not self.rotary:
            return f"{name}t = Identity({name}i)"
        rest = f", {name}n" if self.size > 2 * TURNED else ""
        return f"""{name}o = Gather <axis = 3> ({name}i, order) {name}l, {name}r{rest} = Split <axis = 3> ({name}o, widths)
            {name}c = Gather(tc, at) {name}s = Gather(ts, at) {name}a = Mul({name}l, {name}c) {name}b = Mul({name}r, {name}s)
            {name}d = Mul({name}l, {name}s) {name}e = Mul({name}r, {name}c) {name}f = Sub({name}a, {name}b)
            {name}g = Add({name}d, {name}e) {name}h = Concat <axis = 3> ({name}f, {name}g{rest})
            {name}t = Gather <axis = 3> ({name}h, back)"""

    def parts(self) -> str:
        """The same in operators of the standard domain, without a past."""
        return f"""
            {"q, k, v = Split <axis = 2> (x, cuts)" if self.packed else "q = Identity(x) k = Identity(s) v = Identity(w)"}
            qp = Reshape(q, parts) kp = Reshape(k, kparts) vp = Reshape(v, kparts) qi = Transpose <perm = [0,2,1,3]> (qp)
            ki = Transpose <perm = [0,2,1,3]> (kp) vi = Transpose <perm = [0,2,1,3]> (vp) {self.turned("q")}
            {self.turned("k")}
            r3 = Reshape(real, ends3) ck = Mul(kt, r3) cv = Mul(vi, r3)
            kw = Gather <axis = 1> (ck, twice) vw = Gather <axis = 1> (cv, twice) km = Transpose <perm = [0,1,3,2]> (kw)
            m0 = MatMul(qt, km) m1 = Mul(m0, factor)
            {"m2 = Div(m1, most) m3 = Tanh(m2) m4 = Mul(m3, most)" if self.cap else "m4 = Identity(m1)"}
            {"m5 = Add(m4, b)" if self.bias else "m5 = Identity(m4)"}
            m6 = Add(m5, least) m7 = Softmax <axis = 3> (m6) z = MatMul(m7, vw)
            zt = Transpose <perm = [0,2,1,3]> (z) yr = Reshape(zt, whole)
            r1 = Reshape(real, ends1) y = Mul(yr, r1)"""


VARIANTS = {
    "apart": Variant(),
    "packed": Variant(packed=True, scale=0.4),
    "rotary": Variant(rotary="halves"),
    "rotary packed": Variant(packed=True, rotary="halves"),
    "rotary of pairs": Variant(rotary="pairs"),
    "rotary of a part": Variant(packed=True, rotary="part"),
    "unequal lengths": Variant(rotary="halves", ends=(3, STEPS)),
    "unequal lengths packed": Variant(packed=True, rotary="pairs", ends=(STEPS, 2)),
    "an empty past": Variant(rotary="halves", cached=True, ends=(3, STEPS)),
    "a window": Variant(window=2, ends=(2, STEPS)),
    "a limit": Variant(cap=0.5),
    "a bias": Variant(bias=True, cap=0.7, ends=(4, STEPS)),
}


OLD = tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 24)
"""Windows have one key more then, and the operator takes no bias."""


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if not variant.cached])
def test_as_its_parts(name: str) -> None:
    variant = variant_of(name)
    texts = [f"{variant.interface()} {{ {nodes} }}" for nodes in (variant.node(), variant.parts())]
    assert_alike(texts, variant.names, variant.constants())


def variant_of(name: str) -> Variant:
    """A variant, where this onnxruntime has it."""
    variant = VARIANTS[name]
    if OLD and (variant.window or variant.bias):
        pytest.skip(f"onnxruntime {onnxruntime.__version__} computes something else")
    return variant


def assert_slopes(
    text: str, names: list[str], constants: dict[str, Any], shapes: dict[str, tuple[int, ...]], empty: bool = False
) -> None:
    """Gradients are central differences in some directions.

    Args:
        text: A graph of one node.
        names: Inputs.
        constants: What constants hold.
        shapes: Shapes of the outputs: y, ck and cv.
        empty: Whether the caches have a length of 0.
    """
    model, rng = build(text, 17, constants=constants, domains=["com.microsoft"]), np.random.default_rng(3)
    made = differentiate(Model(model), list(shapes), names)
    assert not made.reasons
    (batch, steps, _), (_, _, caches, size) = shapes["y"], shapes["ck"]
    ends = np.reshape(constants["ends"], (batch, 1)) + 1
    asked = (np.arange(steps) + np.maximum(ends - steps, 0) < ends)[:, :, None]
    kept = (np.arange(caches) < ends)[:, None, :, None]
    real = {"y": asked, "ck": kept, "cv": kept}
    seeds = {n: rng.standard_normal(shape).astype("f") for n, shape in shapes.items()}
    given = {n: np.where(real[n], seed, np.float32(np.nan)) for n, seed in seeds.items()}
    feeds = fed(model, made, given)
    if empty:
        feeds |= {n: np.zeros((batch, PAIRS, 0, size), "f") for n in ("pk", "pv")}
    run = [
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"])
        for m in (model, made.model.proto)
    ]

    def loss(at: dict[str, np.ndarray]) -> float:
        found = run[0].run(list(shapes), at)
        return sum(float(np.where(real[n], seeds[n] * y, 0).sum()) for n, y in zip(shapes, found, strict=True))

    inputs = {i.name: feeds[i.name] for i in model.graph.input}
    for name in names:
        (slope,) = run[1].run([made.gradients[name]], feeds)
        for _ in range(3):
            step = (rng.standard_normal(slope.shape) * 1e-2).astype("f")
            there, back = (loss({**inputs, name: inputs[name] + sign * step}) for sign in (1, -1))
            assert abs((there - back) / 2 - np.vdot(slope, step)) < 2e-3 * np.linalg.norm(slope) * 1e-2 + 1e-5


@pytest.mark.parametrize("name", VARIANTS)
def test_as_differences(name: str) -> None:
    variant = variant_of(name)
    cache = (2, PAIRS, STEPS, variant.size)
    shapes = {"y": (2, STEPS, HEADS * variant.size), "ck": cache, "cv": cache}
    text = f"{variant.interface()} {{ {variant.node()} }}"
    assert_slopes(text, variant.names, variant.constants(), shapes, variant.cached)


@pytest.mark.parametrize(
    ("batch", "steps", "past", "caches", "ends"),
    [(1, 3, 4, 7, [6]), (1, 3, 9, 9, [6]), (2, 1, 4, 5, [4, 2]), (2, 4, 9, 9, [1, 3]), (2, 3, 0, 3, [1, 2])],
)
@pytest.mark.parametrize("extra", ["", ", local_window_size = 2"])
def test_a_past(batch: int, steps: int, past: int, caches: int, ends: list[int], extra: str) -> None:
    """Of some tokens, in a buffer, of unequal lengths, none in a buffer, and none where only the run tells."""
    if OLD and extra:
        pytest.skip(f"onnxruntime {onnxruntime.__version__} computes something else")
    total = max(ends) + 1 if past else steps
    cache = f"float[{batch},2,{caches},16]"
    text = f"""(float[{batch},{steps},128] x, float[{batch},2,{"p" if past == 0 else past},16] pk,
        float[{batch},2,{"p" if past == 0 else past},16] pv) => (float[{batch},{steps},64] y, {cache} ck, {cache} cv)
        <float[20,8] tc, float[20,8] ts, int32[{batch}] ends, int32 total> {{
        y, ck, cv = com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2, do_rotary = 1{extra}>
            (x, , , pk, pv, ends, total, tc, ts) }}"""
    angles = np.outer(np.arange(20), 10.0 ** -np.arange(8))
    constants = {"tc": np.cos(angles), "ts": np.sin(angles), "ends": ends, "total": max(total, steps)}
    shapes = {"y": (batch, steps, 64), "ck": (batch, 2, caches, 16), "cv": (batch, 2, caches, 16)}
    assert_slopes(text, ["x", "pk", "pv"] if past else ["x"], constants, shapes, not past)


@pytest.mark.parametrize(
    ("attributes", "given", "says"),
    [
        ("", ", , t, s", ""),
        (", smooth_softmax = 1", ", , t, s", "attribute smooth_softmax"),
        (", causal = 0", ", , t, s", "follows"),
        (", local_window_size = 0", ", , t, s", "window of no keys"),
        (", do_rotary = 1", ", , t, s, x2, x2", "angles"),
        ("", ", , t, s, , , i", "input number 9"),
        ("", ", , t, s, , , , , h", "input number 11"),
    ],
)
def test_what_has_no_gradient(attributes: str, given: str, says: str) -> None:
    text = f"""(float[1,3,64] x, float[8,8] x0) => (float[1,3,32] y)
        <int32[1] t, int32 s, int64[1,3] i, float[2] h> {{ x2 = Neg(x0)
        y = com.microsoft.GroupQueryAttention <num_heads = 2, kv_num_heads = 1{attributes}> (x, , , {given}) }}"""
    made = differentiate(Model(build(text, 17, domains=["com.microsoft"])), ["y"], ["x", "x0"])
    assert says in made.reasons["x0" if says == "angles" else "x"] if says else "x" in made.gradients


def test_caches_that_are_not_returned() -> None:
    text = """(float[1,3,64] x, float[1,1,p,16] c) => (float[1,3,32] y) <int32[1] t, int32 s> {
        y = com.microsoft.GroupQueryAttention <num_heads = 2, kv_num_heads = 1> (x, , , c, c, t, s) }"""
    made = differentiate(Model(build(text, 17, domains=["com.microsoft"])), ["y"], ["x"])
    assert "does not return its caches" in made.reasons["x"]


def test_other_keys_than_queries() -> None:
    text = """(float[1,3,32] x, float[1,4,16] k) => (float[1,3,32] y) <int32[1] t, int32 s> {
        y = com.microsoft.GroupQueryAttention <num_heads = 2, kv_num_heads = 1> (x, k, k, , , t, s) }"""
    made = differentiate(Model(build(text, 17, domains=["com.microsoft"])), ["y"], ["x"])
    assert "not as many keys as queries" in made.reasons["x"]


@pytest.mark.parametrize("past", [0, 4])
def test_a_decoder_as_spelled_out(past: int) -> None:
    """Gradients of all weights, of a prompt and of tokens behind one."""
    shape, rng = Shape(layers=2), np.random.default_rng(4)
    weights, ids, seed, found = random_weights(shape), rng.integers(0, 32, (1, 5)), None, []
    caches = {
        f"present.{i}.{part}": rng.standard_normal((1, shape.keys, past, shape.size)).astype("f")
        for i in range(shape.layers)
        for part in ("key", "value")
    }
    names = [f"{name}.weight" for name in weights]
    for kind in ("raw", "fused"):
        model = decoder(shape, weights, kind)
        made = differentiate(Model(model), ["logits"], names)
        assert not made.reasons
        given = feeds(model, ids, caches) | {f"{name}.weight": array for name, array in weights.items()}
        seed = rng.standard_normal((1, 5, shape.vocabulary)).astype("f") if seed is None else seed
        session = onnxruntime.InferenceSession(made.model.proto.SerializeToString(), providers=["CPUExecutionProvider"])
        found.append(session.run([made.gradients[n] for n in names], given | {made.seeds["logits"]: seed}))
    for raw, fused in zip(*found, strict=True):
        np.testing.assert_allclose(fused, raw, rtol=1e-3, atol=1e-4 * np.abs(raw).max())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fused", "packed"])
def test_a_decoder_is_distilled(kind: str) -> None:
    shape = Shape(layers=1)
    model, ids = decoder(shape, random_weights(shape), kind), np.random.default_rng(0).integers(0, 32, (48, 8))
    made = onnxprune.prune(model, 0.3, repair="distilled", epochs=2, calib={"input_ids": ids}, time=False).report
    found = made.distilled
    assert found is not None and not found.untrained and found.before is not None and found.after is not None
    assert found.after < found.before
