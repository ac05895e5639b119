"""The graph as it is analysed: nodes, values, axes, shapes, contents of small tensors."""
