"""Measures what a device and an engine take for a model as a function of its widths."""
