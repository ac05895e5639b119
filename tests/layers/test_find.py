"""Product layers as linear maps: patches times matrix plus vector are what onnxruntime computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxprune.coupling.coupling import analyze
from onnxprune.edit.remove import remove
from onnxprune.graph.graph import Graph
from onnxprune.layers.find import LinearLayer, linear_layers, matched
from onnxprune.model.model import Model, load
from tests.support.oracle import draw_removal, session
from tests.support.paths import MODELS
from tests.support.text_models import text_model


def found(model: onnx.ModelProto) -> list[LinearLayer]:
    graph = Graph(model)
    analyze(graph)
    return linear_layers(graph)


def values(model: onnx.ModelProto, feeds: dict[str, NDArray[Any]], names: list[str]) -> dict[str, NDArray[Any]]:
    """These values from one run of the whole model."""
    more = onnx.ModelProto()
    more.CopyFrom(model)
    there = {o.name for o in model.graph.output}
    more.graph.output.extend(onnx.ValueInfoProto(name=n) for n in dict.fromkeys(names) if n not in there | set(feeds))
    one = session(more)
    outputs = [o.name for o in one.get_outputs()]
    return dict(feeds) | dict(zip(outputs, one.run(outputs, feeds), strict=True))


def assert_linear(
    model: onnx.ModelProto, layers: list[LinearLayer], feeds: dict[str, NDArray[Any]], limit: int = 10**9
) -> None:
    """Each layer is the linear map it says, and its arrays come back from their matrices."""
    run, source = values(model, feeds, [n for p in layers for n in (p.x.name, p.output.name)]), Model(model)
    for p in layers:
        x, y = run[p.x.name], run[p.output.name]
        assert p.weight.tensor is not None
        w = source.array(p.weight.tensor)
        positions = p.draw(y.shape, np.random.default_rng(1), limit)
        matrix, patches, targets = p.matrix(w), p.patches(x, positions), p.targets(y, positions)
        into, out = p.features
        columns = into // p.groups * int(np.prod(p.kernel))
        assert len(positions.rows) == min(limit, y.size // out) == len(set(positions.rows.tolist()))
        assert patches.shape == (p.groups, len(positions.rows), columns) and patches.dtype == np.float32
        assert targets.shape == (p.groups, len(positions.rows), out // p.groups) and targets.dtype == np.float32
        assert matrix.shape == (p.groups, out // p.groups, columns)
        made = patches @ matrix.swapaxes(1, 2)
        if p.bias is not None:
            assert p.bias.tensor is not None
            b = source.array(p.bias.tensor)
            made = made + p.vector(b)[:, None]
            np.testing.assert_allclose(
                np.broadcast_to(b, p.unvector(p.vector(b), b.shape).shape), p.unvector(p.vector(b), b.shape), rtol=1e-6
            )
        np.testing.assert_allclose(made, targets, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(p.unmatrix(matrix, w.shape), w, rtol=1e-6)
        group, place = p.columns_of_inputs(range(into))
        assert group.shape == (into,) and place.shape == (into, int(np.prod(p.kernel)))
        assert p.columns == columns
        assert sorted(zip(np.repeat(group, place.shape[1]), place.ravel(), strict=True)) == [
            (g, c) for g in range(p.groups) for c in range(columns)
        ]


CONVS = {
    "plain": ("Conv", "", (6, 4, 3, 3), (2, 4, 7, 8)),
    "pointwise": ("Conv", "", (6, 4, 1, 1), (2, 4, 3, 3)),
    "strides": ("Conv", "strides=[2,3]", (6, 4, 3, 3), (2, 4, 9, 11)),
    "pads": ("Conv", "pads=[1,1,1,1]", (6, 4, 3, 3), (2, 4, 7, 8)),
    "asymmetric": ("Conv", "pads=[0,2,1,0], strides=[2,1]", (6, 4, 3, 2), (2, 4, 7, 8)),
    "dilations": ("Conv", "dilations=[2,3], pads=[2,0,1,3]", (6, 4, 3, 2), (2, 4, 9, 11)),
    "same upper": ("Conv", 'auto_pad="SAME_UPPER", strides=[2,2]', (6, 4, 3, 4), (2, 4, 8, 7)),
    "same lower": ("Conv", 'auto_pad="SAME_LOWER", strides=[2,2]', (6, 4, 3, 4), (2, 4, 8, 7)),
    "same lower 1": ("Conv", 'auto_pad="SAME_LOWER"', (6, 4, 2, 4), (2, 4, 8, 7)),
    "valid": ("Conv", 'auto_pad="VALID", strides=[2,2]', (6, 4, 3, 3), (2, 4, 8, 7)),
    "groups": ("Conv", "group=2, pads=[1,1,1,1]", (6, 2, 3, 3), (2, 4, 7, 8)),
    "depthwise": ("Conv", "group=4, pads=[1,1,1,1], strides=[2,2]", (4, 1, 3, 3), (2, 4, 7, 8)),
    "depthwise multiplied": ("Conv", "group=4", (8, 1, 3, 3), (2, 4, 7, 8)),
    "1-D": ("Conv", "pads=[2,1], strides=[2]", (6, 4, 5), (2, 4, 17)),
    "3-D": ("Conv", "pads=[1,0,1,0,1,2], strides=[1,2,1], group=2", (6, 2, 2, 3, 2), (2, 4, 5, 6, 4)),
    "transposed": ("ConvTranspose", "", (4, 6, 3, 3), (2, 4, 5, 4)),
    "transposed blocks": ("ConvTranspose", "strides=[2,2]", (4, 6, 2, 2), (2, 4, 5, 4)),
    "transposed padded": (
        "ConvTranspose",
        "strides=[2,3], pads=[1,0,0,2], output_padding=[1,0]",
        (4, 6, 4, 3),
        (2, 4, 5, 4),
    ),
    "transposed groups": ("ConvTranspose", "group=2, dilations=[2], strides=[3]", (4, 3, 3), (2, 4, 5)),
    "transposed same": ("ConvTranspose", 'auto_pad="SAME_UPPER", strides=[2,2]', (4, 6, 4, 2), (2, 4, 5, 4)),
    "transposed same lower": ("ConvTranspose", 'auto_pad="SAME_LOWER", strides=[1,1]', (4, 6, 3, 3), (2, 4, 5, 4)),
    "transposed short": ("ConvTranspose", 'auto_pad="SAME_UPPER", strides=[3,3]', (4, 6, 2, 1), (2, 4, 5, 4)),
    "transposed to size": ("ConvTranspose", "strides=[2,2], output_shape=[9,8]", (4, 6, 3, 2), (2, 4, 5, 4)),
    "transposed beyond": ("ConvTranspose", "strides=[2,2], output_shape=[12,9]", (4, 6, 3, 3), (2, 4, 5, 4)),
}


def conv_model(rng: np.random.Generator, case: str, bias: bool) -> tuple[onnx.ModelProto, NDArray[Any]]:
    op, attributes, weight, shape = CONVS[case]
    dims = ", ".join(map(str, shape))
    features = weight[0] if op == "Conv" else weight[1] * (2 if "group=2" in attributes else 1)
    call = f"y = {op} {f'<{attributes}>' if attributes else ''} (x, w{', b' if bias else ''})"
    model = text_model(
        rng, call, f"float[{dims}] x", f"float[{', '.join('n' * len(shape))}] y", w=weight, b=(features,)
    )
    return model, rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("case", CONVS)
@pytest.mark.parametrize("bias", [False, True])
def test_convolutions(case: str, bias: bool, rng: np.random.Generator) -> None:
    model, x = conv_model(rng, case, bias)
    layers = found(model)
    assert [p.kind for p in layers] == ["conv" if CONVS[case][0] == "Conv" else "conv_transpose"]
    assert_linear(model, layers, {"x": x})
    assert_linear(model, layers, {"x": x}, limit=7)


@pytest.mark.parametrize("attributes", ['auto_pad="SAME_UPPER", strides=[2,2]', "strides=[2,2], output_shape=[8,8]"])
def test_transposed_convolution_with_odd_padding_is_left_out(attributes: str, rng: np.random.Generator) -> None:
    model = text_model(
        rng, f"y = ConvTranspose <{attributes}> (x, w)", "float[2,4,5,4] x", "float[a,b,c,d] y", w=(4, 6, 3, 3)
    )
    assert found(model) == []


GEMMS = [
    ("", (5, 4), (4, 3), (3,)),
    ("transA=1", (4, 5), (4, 3), (1, 3)),
    ("transB=1", (5, 4), (3, 4), (3,)),
    ("transA=1, transB=1, alpha=0.5, beta=2.0", (4, 5), (3, 4), (3,)),
    ("alpha=3.0, beta=0.25", (5, 4), (4, 3), (1,)),
    ("transB=1, beta=0.5", (5, 4), (3, 4), ()),
]


@pytest.mark.parametrize(("attributes", "x", "w", "b"), GEMMS)
@pytest.mark.parametrize("bias", [False, True])
def test_gemm(
    attributes: str, x: tuple[int, ...], w: tuple[int, ...], b: tuple[int, ...], bias: bool, rng: np.random.Generator
) -> None:
    dims = ", ".join(map(str, x))
    call = f"y = Gemm {f'<{attributes}>' if attributes else ''} (x, w{', b' if bias else ''})"
    model = text_model(rng, call, f"float[{dims}] x", "float[m, k] y", w=w, b=b)
    layers = found(model)
    assert [p.kind for p in layers] == ["gemm"] and (layers[0].bias is not None) == bias
    assert_linear(model, layers, {"x": rng.standard_normal(x).astype(np.float32)})
    assert_linear(model, layers, {"x": rng.standard_normal(x).astype(np.float32)}, limit=3)


def test_gemm_with_a_bias_that_varies_along_rows_is_left_out(rng: np.random.Generator) -> None:
    assert found(text_model(rng, "y = Gemm (x, w, b)", "float[5,4] x", "float[5,3] y", w=(4, 3), b=(5, 3))) == []
    assert found(text_model(rng, "y = Gemm (x, w, b)", "float[5,4] x", "float[5,3] y", w=(4, 3), b=(5, 1))) == []


@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 5, 4), (2, 3, 5, 4)])
@pytest.mark.parametrize("side", ["right", "left"])
def test_matmul(shape: tuple[int, ...], side: str, rng: np.random.Generator) -> None:
    left = side == "left"
    shape = (*shape[:-2], 4, 5) if left and len(shape) > 1 else shape
    out = len(shape)
    model = text_model(
        rng,
        "m = MatMul (w, x) y = Add (b, m)" if left else "m = MatMul (x, w) y = Add (m, b)",
        f"float[{', '.join(map(str, shape))}] x",
        f"float[{', '.join('abcd'[:out])}] y",
        w=(3, 4) if left else (4, 3),
        b=(3, 1) if left and len(shape) > 1 else (3,),
    )
    layers = found(model)
    assert [(p.kind, p.output.name, p.bias and p.bias.name) for p in layers] == [("matmul", "y", "b")]
    x = rng.standard_normal(shape).astype(np.float32)
    assert_linear(model, layers, {"x": x})
    assert_linear(model, layers, {"x": x}, limit=4)


def test_bias_of_an_add_behind(rng: np.random.Generator) -> None:
    """Taken only where nobody else sees the sum without it and it is one number per feature."""
    conv = "m = Conv (x, w) y = Add (m, b)"
    shape = "float[2,4,5,5] x"

    def one(body: str, y: str = "float[a,b,c,d] y", **constants: tuple[int, ...]) -> LinearLayer:
        model = text_model(rng, body, shape, y, w=(6, 4, 1, 1), **constants)
        (layer,) = found(model)
        assert_linear(model, [layer], {"x": rng.standard_normal((2, 4, 5, 5)).astype(np.float32)})
        return layer

    assert one(conv, b=(6, 1, 1)).bias
    assert one(conv, b=(1, 6, 1, 1)).output.name == "y"
    scalar = one(conv, b=())
    assert scalar.bias and scalar.unvector(np.ones((1, 6)), ()).shape == (6, 1, 1)
    assert one(conv, b=(5,)).bias is None
    assert one(conv, b=(6, 1, 5)).bias is None
    assert one(conv, b=(1, 1, 6, 1, 1), y="float[a,b,c,d,e] y").bias is None
    assert (
        one(
            "m = Conv (x, w) y = Add (m, b) z = Relu (m)", "float[a,b,c,d] y, float[a,b,c,d] z", b=(6, 1, 1)
        ).output.name
        == "m"
    )
    assert one(conv, "float[a,b,c,d] y, float[a,b,c,d] m", b=(6, 1, 1)).bias is None
    assert one("m = Conv (x, w) y = Add (m, m)").bias is None


def test_weights_behind_other_nodes(rng: np.random.Generator) -> None:
    """Through Identity, Transpose and Cast, however they are stacked; nothing else."""
    body = """h = Transpose <perm=[1,2,0]> (v) w = Transpose <perm=[2,1,0]> (h) i = Identity (w)
              m = Conv <pads=[1,1]> (x, i) t = Transpose (u) n = Transpose <perm=[0,2,1]> (m) c = Cast <to=1> (t)
              y = MatMul (n, c)"""
    model = text_model(rng, body, "float[2,4,9] x", "float[a,b,c] y", v=(6, 3, 4), u=(5, 6))
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(rng.standard_normal((5, 6)).astype(np.float16), "u"))
    layers = found(model)
    assert [(p.kind, p.weight.name) for p in layers] == [("conv", "v"), ("matmul", "u")]
    assert not any(p.weight_shared for p in layers)
    assert_linear(model, layers, {"x": rng.standard_normal((2, 4, 9)).astype(np.float32)})
    doubled = text_model(rng, "d = Add (w, w) y = MatMul (x, d)", "float[2,4] x", "float[a,b] y", w=(4, 3))
    assert found(doubled) == []


def test_what_else_reads_a_constant_is_told(rng: np.random.Generator) -> None:
    model = text_model(
        rng,
        """e = Gather (w, i) t = Transpose (w) m = MatMul (e, t) y = Add (m, b)
                          k = MatMul (e, u) l = Add (k, b)""",
        "int64[2] i",
        "float[a,b] y, float[a,c] l",
        w=(5, 4),
        u=(4, 5),
        b=(5,),
    )
    tied, alone = found(model)
    assert tied.weight_shared and tied.bias_shared and not alone.weight_shared and alone.bias_shared


def test_products_of_activations_are_none(rng: np.random.Generator) -> None:
    assert found(text_model(rng, "y = MatMul (x, x)", "float[4,4] x", "float[4,4] y")) == []
    assert (
        found(
            text_model(
                rng, "z = Relu (b) y = Conv (x, w, z)", "float[2,4,5] x, float[3] b", "float[a,b,c] y", w=(3, 4, 1)
            )
        )
        == []
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["pt_mobilenet", "pt_resnet_bn", "pt_transformer", "pt_transformer_packed", "sk_mlp", "keras_cnn"]
)
def test_trained_models_before_and_after_pruning(name: str) -> None:
    """The pruned model's own products fit what it computes, and each is found again by its output."""
    model = load(MODELS / f"{name}.onnx")
    suffix = {"sk_mlp": "_flat", "keras_cnn": "_nhwc"}.get(name, "")
    with np.load(MODELS / f"digits_calib{suffix}.npz") as data:
        feeds = {model.proto.graph.input[0].name: data["input"][:3]}
    before = found(model.proto)
    assert len(before) > 2
    assert_linear(model.proto, before, feeds, limit=50)
    pruned = load(model.proto)
    coupling = analyze(Graph(pruned.proto))
    remove(pruned, coupling, draw_removal(coupling, 0.5, 0))
    after = found(pruned.proto)
    assert_linear(pruned.proto, after, feeds, limit=50)
    pairs = matched(before, after)
    assert len(pairs) == len(before) == len(after) and all(a.name == b.name for a, b in pairs)
    assert any(a.features != b.features for a, b in pairs)


def test_same_places_on_both_sides(rng: np.random.Generator) -> None:
    """Rows of a sample are rows of the whole."""
    model, x = conv_model(rng, "asymmetric", True)
    (p,) = found(model)
    y = values(model, {"x": x}, [])["y"]
    everywhere, some = p.draw(y.shape, np.random.default_rng(0), 10**6), p.draw(y.shape, np.random.default_rng(0), 9)
    np.testing.assert_array_equal(p.patches(x, everywhere)[:, some.rows], p.patches(x, some))
    np.testing.assert_array_equal(p.targets(y, everywhere)[:, some.rows], p.targets(y, some))


def test_padding_hides_no_infinity(rng: np.random.Generator) -> None:
    """What is outside is zero even where the place that stands in for it is not finite."""
    model, x = conv_model(rng, "pads", True)
    (p,) = found(model)
    x[:, :, 0, 0] = np.inf
    patches = p.patches(x, p.draw((2, 6, 7, 8), np.random.default_rng(0), 10**6))
    assert not np.isnan(patches).any() and (patches[0, 0].reshape(4, 3, 3)[:, 0] == 0).all()


def test_constant_first_factor_of_gemm_is_left_out(rng: np.random.Generator) -> None:
    model = text_model(rng, "y = Gemm (w, x)", "float[4,3] x", "float[a,b] y", w=(5, 4))
    assert found(model) == []
