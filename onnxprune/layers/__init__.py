"""Layers as matrices: finding them in a graph, reading and writing their weights."""
