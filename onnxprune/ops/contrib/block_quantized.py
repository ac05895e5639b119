"""Products with weights of few bits, a scale for each block of them."""

from __future__ import annotations

from onnxprune.graph.graph import Node
from onnxprune.graph.node_shapes import need
from onnxprune.graph.operators import Shape
from onnxprune.ops.linear import product_macs
from onnxprune.ops.op import Op, arange
from onnxprune.ops.registry import macs, output_shape, rule
from onnxprune.ops.ties import Alternative, Link, NewShape

MS = "com.microsoft"


macs("MatMulNBits MatMulBnb4 MatMulFpQ4", domain=MS)(product_macs)


@output_shape("MatMulNBits MatMulBnb4", domain=MS)
def matmul_nbits_shape(node: Node, shapes: list[Shape]) -> list[Shape]:
    """The last axis becomes that of the columns."""
    return [[*need(shapes[0])[:-1], node.attribute("N")]]


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
