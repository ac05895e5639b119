"""Checkpoints of training frameworks, sliced by a plan."""
