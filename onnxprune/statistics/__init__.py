"""Moments of the inputs of layers."""
