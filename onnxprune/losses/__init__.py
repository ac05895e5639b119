"""Losses of outputs with labels: as nodes of the graph, and as numbers with their gradients."""
