"""Products with weights of few bits, a scale for each block of them."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from onnxprune.graph.graph import Node
from onnxprune.graph.node_shapes import need
from onnxprune.graph.operators import Shape
from onnxprune.ops.linear import product_macs
from onnxprune.ops.op import Op, arange
from onnxprune.ops.registry import macs, output_shape, packs, rule
from onnxprune.ops.ties import Alternative, Link, NewShape

MS = "com.microsoft"


macs("MatMulNBits MatMulBnb4 MatMulFpQ4", domain=MS)(product_macs)


@output_shape("MatMulNBits MatMulBnb4", domain=MS)
def matmul_nbits_shape(node: Node, shapes: list[Shape]) -> list[Shape]:
    """The last axis becomes that of the columns."""
    return [[*need(shapes[0])[:-1], node.attribute("N")]]


@packs("MatMulNBits", domain=MS)
def nbits_channels(node: Node, i: int) -> dict[int, int]:
    """Rows are columns of the output, and a block holds as many inputs as it is long."""
    return {0: 1, 1: int(node.attribute("block_size"))} if i == 1 else {}


@rule("MatMulNBits", domain=MS)
def matmul_nbits(op: Op) -> None:
    """Weights of few bits in blocks: output columns go one by one, inputs by blocks that share no byte."""
    x, packed, out = op.input(0), op.input(1), op.output()
    inputs, columns, size = x.axis(-1), out.axis(-1), op.attr("block_size")
    blocks = -(-op.attr("K") // size)
    if op.has(4) or op.attr("weight_prepacked", 0) or packed.rank != 3 or packed.axis(1).length != blocks:
        raise ValueError("stored in another way than in rows of blocks")
    for axis in x.axes()[:-1]:
        op.tie(axis, out.axis(axis.position))
    op.pin(packed.axis(2), "bits of a block")
    op.tie(packed.axis(0), columns)
    if op.has(5):
        op.tie(op.input(5).axis(0), columns)
    by_column: Link = [(columns, arange(columns))]
    shared = 1  # blocks whose zero points lie in one byte
    tables = [(op.input(2), blocks)]
    if op.has(3):
        in_bytes = op.input(3).elem_type != op.input(2).elem_type
        shared = 8 // op.attr("bits", 4) if in_bytes else 1
        tables.append((op.input(3), -(-blocks // shared)))
    by_block: Link = [(inputs, arange(inputs) // (size * shared)), (packed.axis(1), arange(packed.axis(1)) // shared)]
    for table, width in tables:
        if table.rank == 1 and table.axis(0).length == (columns.length or 0) * width:
            by_column.append((table.axis(0), arange(table.axis(0)) // width))
        elif table.rank == 2 and table.axis(0).length == columns.length and table.axis(1).length == width:
            op.tie(table.axis(0), columns)
        else:
            raise ValueError("scales or zero points of an unknown form")
        by_block.append((table.axis(-1), arange(table.axis(-1)) % width // (shared if width == blocks else 1)))
    even = inputs.length == op.attr("K") and inputs.length == blocks * size and blocks % shared == 0
    _carry_blocks(op, by_column, by_block, even)
    op.keep_zero(columns, packed.axis(0), *([op.input(5).axis(0)] if op.has(5) else []))
    if packed.tensor is not None:
        op.packed(packed, op.input(2), op.input(3) if op.has(3) else None, op.attr("bits", 4))

    def follow(new: NewShape) -> None:
        new.set_attribute("N", len(new.kept(columns)))
        if even:
            new.set_attribute("K", len(new.kept(inputs)))

    op.resize(follow)


def _carry_blocks(op: Op, by_column: Link, by_block: Link, even: bool) -> None:
    """Scales that lie in one row for all columns can be cut by columns or by blocks, not by both."""
    (inputs, _), (blocks_axis, _) = by_block[:2]
    if not even:
        for axis in (inputs, blocks_axis):
            op.pin(axis, f"blocks of {op.node.label} do not divide it")
        op.link(*by_column)
        return
    op.sum_over(inputs, blocks_axis)
    if len(by_column) == 1:
        op.link(*by_block)
    else:
        op.choose(
            Alternative("by columns", [by_column], [inputs, blocks_axis], weight=1),
            Alternative("by blocks", [by_block], [by_column[0][0]]),
        )


@rule("MatMulBnb4", domain=MS)
def matmul_bnb4(op: Op) -> None:
    """Weights of 4-bit floats in blocks, all in one row: output columns go one by one, or inputs by blocks."""
    x, packed, scales, out = op.input(0), op.input(1), op.input(2), op.output()
    inputs, columns = x.axis(-1), out.axis(-1)
    deep, wide, size = op.attr("K"), op.attr("N"), op.attr("block_size")
    if not op.attr("transB", 1) or deep % size or (packed.rank, scales.rank) != (1, 1):
        raise ValueError("blocks run over several columns")
    for axis in x.axes()[:-1]:
        op.tie(axis, out.axis(axis.position))
    first = [(packed.axis(0), np.arange(wide * deep // 2) * 2), (scales.axis(0), np.arange(wide * deep // size) * size)]
    by_column: Link = [(columns, arange(columns)), *((axis, at // deep) for axis, at in first)]
    by_block: Link = [(inputs, arange(inputs) // size), *((axis, at % deep // size) for axis, at in first)]
    op.sum_over(inputs, scales.axis(0))
    op.choose(
        Alternative("by columns", [by_column], [inputs], weight=1), Alternative("by blocks", [by_block], [columns])
    )
    op.keep_zero(columns, scales.axis(0))

    def follow(new: NewShape) -> None:
        new.set_attribute("N", len(new.kept(columns)))
        new.set_attribute("K", len(new.kept(inputs)))

    op.resize(follow)


@output_shape("GatherBlockQuantized", domain=MS)
def looked_up_shape(node: Node, shapes: list[Shape]) -> list[Shape]:
    """The indices, then the numbers of a row, of which a byte may hold several."""
    table, ids = need(shapes[0]), need(shapes[1])
    if len(table) != 2 or node.attribute("gather_axis", 0) or not isinstance(table[1], int):
        raise ValueError("no table of rows")
    return [[*ids, table[1] * _numbers(node)]]


def _numbers(node: Node) -> int:
    """Numbers of an element of a table: several only in bytes."""
    return 8 // int(node.attribute("bits", 4)) if node.input(0).elem_type == TensorProto.UINT8 else 1


@rule("GatherBlockQuantized", domain=MS, lookups=((0, 1),), type_of=(2,))
def gather_block_quantized(op: Op) -> None:
    """Rows of a table with a scale for each block of numbers: widths go by blocks that share no byte of zero points."""
    table, ids, scales, out = op.input(0), op.input(1), op.input(2), op.output()
    width, size, shared = out.axis(-1), op.attr("block_size", 128), _numbers(op.node)
    if table.elem_type not in (TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4):
        raise ValueError("a table of floats of few bits")
    if op.attr("quantize_axis", 1) % 2 == 0 or not width.length or scales.axis(1).length != -(-width.length // size):
        raise ValueError("stored in another way than in blocks of rows")
    points = op.input(3) if op.has(3) else None
    unit = size * (shared if points is not None else 1)
    units = np.arange(width.length) // unit
    parts: Link = [(width, units), (table.axis(1), units[::shared]), (scales.axis(1), units[::size])]
    parts += [(points.axis(1), units[:: size * shared])] if points is not None else []
    op.link(*parts)
    op.keep_zero(width, scales.axis(1))
    for axis in ids.axes():
        op.tie(axis, out.axis(axis.position))
    for value in (table, scales, points):
        if value is not None and ids.key in op.ties.renumbered:
            op.tie(table.axis(0), value.axis(0))
        elif value is not None:
            op.pin(value.axis(0), f"{op.node.label} looks indices up along it")
    if table.tensor is not None and table.elem_type == TensorProto.UINT8:
        op.packed(table, scales, points, op.attr("bits", 4))
