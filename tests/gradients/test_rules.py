"""Every gradient rule against central differences in double precision, and in onnxruntime in single precision."""

from __future__ import annotations

import pytest

from tests.gradients.cases import Row, binary, conv, positive, unary
from tests.gradients.differences import check
from tests.support.lanes import spread

ROWS = [
    *(
        unary(node)
        for node in (
            "Relu",
            "LeakyRelu <alpha = 0.3>",
            "Elu <alpha = 0.7>",
            "Celu <alpha = 0.6>",
            "Selu",
            "Sigmoid",
            "Tanh",
            "ThresholdedRelu <alpha = 0.2>",
            "Softplus",
            "Softsign",
            "HardSigmoid <alpha = 0.3>",
            "HardSwish",
            "Mish",
            "Erf",
            "Exp",
            "Abs",
            "Neg",
            "Sin",
            "Cos",
            "Tan",
            "Atan",
            "Sinh",
            "Cosh",
            "Asinh",
            "Shrink <lambd = 0.3, bias = 0.1>",
            "Ceil",
            "Round",
            "Identity",
            "Floor",
            "Sign",
            "Dropout",
            "Softmax",
            "Softmax <axis = 1>",
            "LogSoftmax <axis = 0>",
        )
    ),
    unary("Gelu", 20),
    unary('Gelu <approximate = "tanh">', 20),
    *(positive(node) for node in ("Log", "Sqrt", "Reciprocal")),
    *(
        Row(node, f"(real[2,3] x) => (real[2,3] y) {{ s = Sigmoid(x) y = {node} (s) }}")
        for node in ("Asin", "Acos", "Atanh")
    ),
    Row("Acosh", "(real[2,3] x) => (real[2,3] y) { e = Exp(x) z = Cosh(e) y = Acosh(z) }"),
    binary("Mod <fmod = 1>", positive=True),
    unary("Softmax <axis = 1>", 11),
    unary("LogSoftmax <axis = 2>", 11),
    unary("Clip <min = -0.5, max = 0.6>", 9),
    Row(
        "Clip", "(real[2,3,4] x) => (real[2,3,4] y) <real kl, real kh> { y = Clip(x, kl, kh) }", {"kl": -0.4, "kh": 0.9}
    ),
    Row("Clip above", '(real[2,3,4] x) => (real[2,3,4] y) <real kh> { y = Clip(x, "", kh) }', {"kh": 0.3}),
    Row(
        "Clip by computed bounds", "(real[2,3,4] x, real l, real h) => (real[2,3,4] y) { e = Exp(h) y = Clip(x, l, e) }"
    ),
    Row("CastLike", "(real[2,3] x, real[3] b) => (real[2,3] y) { e = CastLike (x, b) y = Mul (e, b) }"),
    *(  # as many samples as channels: the reference evaluator confuses them
        Row(
            f"LRN of {size}",
            "(real[4,4,2,1] x) => (real[4,4,2,1] y) "
            f"{{ y = LRN <size = {size}, alpha = 0.5, beta = 0.6, bias = 1.5> (x) }}",
        )
        for size in (3, 5)
    ),
    Row("Cast", "(real[2,3] x) => (real[2,3] y) { e = Cast <to = 11> (x) y = Cast <to = TYPE> (e) }"),
    *(binary(op) for op in ("Add", "Sub", "Mul", "Max", "Min", "Mean", "Sum", "PRelu")),
    *(binary(op, "4", "2,3,4", "2,3,4") for op in ("Add", "Mul", "Sub")),
    binary("Div", positive=True),
    Row("Sum of three", "(real[2,3] x) => (real[2,3] y) <real[3] a, real[1,1] b> { y = Sum(x, a, b) }"),
    Row("twice", "(real[2,3] x) => (real[2,3] y) { y = Mul(x, x) }"),
    Row("Pow", "(real[2,3] x) => (real[2,3] y) <real kn> { e = Exp(x) y = Pow(e, kn) }", {"kn": 1.7}),
    Row("Pow of whole", "(real[2,3] x) => (real[2,3] y) <int64 kn> { y = Pow(x, kn) }", {"kn": 3}),
    Row("Where", "(real[2,3] x) => (real[2,3] y) <real[3] b, bool[2,1] k> { y = Where(k, x, b) }", {"k": [1, 0]}),
    conv("", "2,3,6,5", "4,3,3,2", "2,4,4,4"),
    conv("pads = [1,0,2,1], strides = [2,1]", "2,3,6,5", "4,3,3,2", "2,4,4,5"),
    conv("strides = [3,2]", "1,2,9,8", "2,2,3,3", "1,2,3,3"),
    conv("dilations = [2,1], pads = [2,1,2,1]", "2,2,6,5", "3,2,3,3", "2,3,6,5"),
    conv("dilations = [2,2], strides = [2,2]", "1,2,8,7", "2,2,2,3", "1,2,3,2"),
    conv("group = 2, pads = [1,1,1,1]", "2,4,5,5", "6,2,3,3", "2,6,5,5", bias=False),
    conv("group = 4, strides = [2,2], pads = [1,1,1,1]", "2,4,6,5", "4,1,3,3", "2,4,3,3"),
    conv("group = 3, pads = [1,1,1,1]", "1,3,5,5", "6,1,3,3", "1,6,5,5"),
    conv("", "2,3,4,4", "5,3,1,1", "2,5,4,4"),
    conv("strides = [2,2]", "2,3,5,5", "4,3,1,1", "2,4,3,3"),
    conv('auto_pad = "SAME_UPPER", strides = [2,2]', "1,2,6,5", "3,2,3,3", "1,3,3,3"),
    conv('auto_pad = "SAME_LOWER", strides = [2,2]', "1,2,6,5", "3,2,3,3", "1,3,3,3"),
    conv("pads = [1,1]", "2,3,7", "4,3,3", "2,4,7"),
    conv("", "1,2,3,4,3", "2,2,2,2,2", "1,2,2,3,2"),
    conv("pads = [1,1,1,1], strides = [2,2]", "2,3,6,5", "4,3,3,3", "2,4,3,3", opset=9),
    conv(
        "strides = [2,2], pads = [1,1,1,1], output_padding = [1,0]", "2,4,3,3", "4,3,3,3", "2,3,6,5", op="ConvTranspose"
    ),
    conv("group = 2, strides = [2,2]", "2,4,3,3", "4,2,2,2", "2,4,6,6", op="ConvTranspose"),
    conv("dilations = [2,1]", "1,2,3,3", "2,2,2,2", "1,2,5,4", op="ConvTranspose"),
    *(
        Row(
            f"Gemm {a} {b}",
            f"(real[{'3,2' if a else '2,3'}] x) => (real[2,4] y) <real[{'4,3' if b else '3,4'}] w, real[{c}] b>"
            f"{{ y = Gemm <transA = {a}, transB = {b}, alpha = 0.5, beta = 0.7> (x, w, b) }}",
        )
        for a, b, c in ((0, 0, "4"), (1, 0, "2,4"), (0, 1, "1"), (1, 1, "2,1"))
    ),
    Row("MatMul", "(real[2,3] x) => (real[2,4] y) <real[3,4] w> { y = MatMul(x, w) }"),
    Row("MatMul shared", "(real[2,5,3] x) => (real[2,5,4] y) <real[3,4] w> { y = MatMul(x, w) }"),
    Row("MatMul left", "(real[2,3,4] x) => (real[2,5,4] y) <real[5,3] w> { y = MatMul(w, x) }"),
    Row("MatMul stretched", "(real[2,1,5,3] x) => (real[2,2,5,4] y) <real[2,3,4] w> { y = MatMul(x, w) }"),
    Row("MatMul of a vector", "(real[3] x) => (real[2,4] y) <real[2,3,4] w> { y = MatMul(x, w) }"),
    Row("MatMul with a vector", "(real[2,5,3] x) => (real[2,5] y) <real[3] w> { y = MatMul(x, w) }"),
    Row("MatMul of two vectors", "(real[3] x) => (real y) <real[3] w> { y = MatMul(x, w) }"),
    Row("Einsum", '(real[2,3,4] x) => (real[2,5,4] y) <real[3,5] w> { y = Einsum <equation = "bij,ik->bkj"> (x, w) }'),
    Row("Reshape", "(real[2,6] x) => (real[3,4] y) <int64[2] k> { y = Reshape(x, k) }", {"k": [3, -1]}),
    Row("Flatten", "(real[2,3,4] x) => (real[6,4] y) { y = Flatten <axis = 2> (x) }"),
    Row("Transpose", "(real[2,3,4] x) => (real[4,2,3] y) { y = Transpose <perm = [2,0,1]> (x) }"),
    Row("Transpose all", "(real[2,3] x) => (real[3,2] y) { y = Transpose (x) }"),
    Row("Squeeze", "(real[2,1,3] x) => (real[2,3] y) <int64[1] k> { y = Squeeze(x, k) }", {"k": [1]}),
    Row("Unsqueeze", "(real[2,3] x) => (real[2,1,3] y) <int64[1] k> { y = Unsqueeze(x, k) }", {"k": [1]}),
    Row("Expand", "(real[3,1] x) => (real[2,3,4] y) <int64[3] k> { y = Expand(x, k) }", {"k": [2, 3, 4]}),
    Row("Tile", "(real[2,3] x) => (real[4,9] y) <int64[2] k> { y = Tile(x, k) }", {"k": [2, 3]}),
    Row("Concat", "(real[2,3] x) => (real[2,7] y) <real[2,4] b> { y = Concat <axis = -1> (x, b) }"),
    Row(
        "Split",
        "(real[2,5] x) => (real[2,2] y, real[2,3] z) <int64[2] k> { y, z = Split <axis = 1> (x, k) }",
        {"k": [2, 3]},
    ),
    Row("Split in part", "(real[2,4] x) => (real[2,2] y) { z, y = Split <axis = 1, num_outputs = 2> (x) }"),
    Row(
        "Slice",
        "(real[4,6] x) => (real[2,3] y) <int64[2] ks, int64[2] ke, int64[2] ka> { y = Slice(x, ks, ke, ka) }",
        {"ks": [1, -4], "ke": [3, 5], "ka": [0, 1]},
    ),
    Row(
        "Slice by steps",
        "(real[5,6] x) => (real[3,3] y) <int64[2] ks, int64[2] ke, int64[2] ka, int64[2] kt> { y = Slice(x, ks, ke, ka, kt) }",
        {"ks": [0, 5], "ke": [5, -100], "ka": [0, 1], "kt": [2, -2]},
    ),
    Row("Slice before 10", "(real[4,6] x) => (real[2,3] y) { y = Slice <starts = [1,2], ends = [3,5]> (x) }", opset=9),
    Row(
        "Gather",
        "(real[4,3] x) => (real[4,5] y) <int64[5] k> { y = Gather <axis = 1> (x, k) }",
        {"k": [0, 2, 2, -1, 1]},
    ),
    Row("Gather one", "(real[4,3] x) => (real[4] y) <int64 k> { y = Gather <axis = 1> (x, k) }", {"k": 1}),
    Row(
        "Gather a table",
        "(real[4,3,2] x) => (real[4,2,2,2] y) <int64[2,2] k> { y = Gather <axis = 1> (x, k) }",
        {"k": [[0, -1], [2, 2]]},
    ),
    Row("Gather computed", "(real[4,3] x, int64[2] k) => (real[4,2] y) { y = Gather <axis = 1> (x, k) }"),
    Row(
        "GatherElements",
        "(real[4,3] x) => (real[2,3] y) <int64[2,3] k> { y = GatherElements (x, k) }",
        {"k": [[0, -1, 2], [0, 1, 1]]},
    ),
    Row("Gather rows", "(int64[2,3] k) => (real[2,3,4] y) <real[5,4] w> { y = Gather(w, k) }"),
    Row("Gather rows by int32", "(int32[2,3] k) => (real[2,3,4] y) <real[5,4] w> { y = Gather(w, k) }"),
    Row(
        "Gather rows by int32 before 16",
        "(int32[2,3] k) => (real[2,3,4] y) <real[5,4] w> { y = Gather(w, k) }",
        opset=13,
    ),
    Row("Gather rows before 16", "(int64[2,3] k) => (real[2,3,4] y) <real[5,4] w> { y = Gather(w, k) }", opset=13),
    Row("Pad", "(real[2,3] x) => (real[4,5] y) <int64[4] k> { y = Pad(x, k) }", {"k": [1, 0, 1, 2]}),
    Row(
        "Pad reflect",
        '(real[2,4] x) => (real[2,7] y) <int64[4] k> { y = Pad <mode = "reflect"> (x, k) }',
        {"k": [0, 2, 0, 1]},
    ),
    Row(
        "Pad edge",
        '(real[2,4] x) => (real[3,7] y) <int64[4] k> { y = Pad <mode = "edge"> (x, k) }',
        {"k": [1, 2, 0, 1]},
    ),
    Row("DepthToSpace", "(real[1,8,2,3] x) => (real[1,2,4,6] y) { y = DepthToSpace <blocksize = 2> (x) }"),
    Row(
        "DepthToSpace CRD",
        '(real[1,8,2,3] x) => (real[1,2,4,6] y) { y = DepthToSpace <blocksize = 2, mode = "CRD"> (x) }',
    ),
    Row("SpaceToDepth", "(real[1,2,4,6] x) => (real[1,8,2,3] y) { y = SpaceToDepth <blocksize = 2> (x) }"),
    *(
        Row(
            f"Resize {attributes}",
            f'(real[1,2,3,4] x) => (real[1,2,6,6] y) <float[4] k> {{ y = Resize <{attributes}> (x, "", k) }}',
            {"k": [1, 1, 2, 1.5]},
        )
        for attributes in (
            'mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"',
            'mode = "linear"',
            'mode = "linear", coordinate_transformation_mode = "align_corners"',
        )
    ),
    Row(
        "Resize to lengths",
        '(real[1,2,3,4] x) => (real[1,2,5,7] y) <int64[4] k> { y = Resize <mode = "linear"> (x, "", "", k) }',
        {"k": [1, 2, 5, 7]},
    ),
    *(
        Row(
            f"{op} {axis} {keep}",
            f"(real[2,3,4] x) => (real[{out}] y) <int64[1] k> {{ y = {op} <keepdims = {keep}> (x, k) }}",
            {"k": [axis]},
        )
        for op in (
            "ReduceSum",
            "ReduceMean",
            "ReduceSumSquare",
            "ReduceL2",
            "ReduceL1",
            "ReduceMax",
            "ReduceMin",
            "ReduceLogSumExp",
            "ReduceProd",
        )
        for axis, keep, out in ((1, 1, "2,1,4"), (-1, 0, "2,3"))
    ),
    Row(
        "ReduceL2 of zeros",
        "(real[2,3] x) => (real[2,1] y) <real[2,1] kz, int64[1] k> { m = Mul(x, kz) y = ReduceL2(m, k) }",
        {"kz": [[1.0], [0.0]], "k": [1]},
    ),
    Row(
        "ReduceLogSum",
        "(real[2,3,4] x) => (real[2,4] y) <int64[1] k> { e = Exp(x) y = ReduceLogSum <keepdims = 0> (e, k) }",
        {"k": [1]},
    ),
    Row(
        "ReduceProd of zeros",
        "(real[3,3] x) => (real[3] y) <real[3,3] kz> { m = Mul(x, kz) y = ReduceProd <axes = [1], keepdims = 0> (m) }",
        {"kz": [[1.0, 2.0, 0.5], [0.0, 1.0, 3.0], [0.0, 1.0, 0.0]]},
        opset=13,
    ),
    Row("ReduceMean of all", "(real[2,3] x) => (real[1,1] y) { y = ReduceMean (x) }"),
    Row(
        "ReduceMean before 18",
        "(real[2,3,4] x) => (real[2] y) { y = ReduceMean <axes = [1,2], keepdims = 0> (x) }",
        opset=13,
    ),
    Row("GlobalAveragePool", "(real[2,3,4,5] x) => (real[2,3,1,1] y) { y = GlobalAveragePool (x) }"),
    Row("GlobalMaxPool", "(real[2,3,4,5] x) => (real[2,3,1,1] y) { y = GlobalMaxPool (x) }"),
    *(
        Row(f"{op} {a}", f"(real[2,3,{x}] x) => (real[2,3,{y}] y) {{ y = {op} <{a}> (x) }}", opset=opset)
        for op in ("AveragePool", "MaxPool")
        for a, x, y, opset in (
            ("kernel_shape = [2,2], strides = [2,2]", "4,6", "2,3", 18),
            ("kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]", "5,6", "3,3", 18),
            ("kernel_shape = [3,2]", "5,5", "3,4", 9),
            ('kernel_shape = [3,3], strides = [2,2], auto_pad = "SAME_UPPER"', "6,5", "3,3", 18),
        )
    ),
    Row(
        "AveragePool with zeros",
        "(real[2,3,5,5] x) => (real[2,3,5,5] y) { y = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1], count_include_pad = 1> (x) }",
    ),
    Row(
        "AveragePool beyond",
        "(real[1,2,5,5] x) => (real[1,2,3,3] y) { y = AveragePool <kernel_shape = [2,2], strides = [2,2], ceil_mode = 1> (x) }",
        opset=21,
    ),
    Row(
        "AveragePool rounded up in vain",
        "(real[1,2,4,4] x) => (real[1,2,2,2] y) { y = AveragePool <kernel_shape = [2,2], strides = [2,2], ceil_mode = 1> (x) }",
    ),
    Row(
        "MaxPool beyond",
        "(real[1,2,5,5] x) => (real[1,2,3,3] y) { y = MaxPool <kernel_shape = [2,2], strides = [2,2], ceil_mode = 1> (x) }",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("row", spread(ROWS), ids=lambda row: row.name)
def test_rule(row: Row) -> None:
    check(row)
