"""The other verbs: inspect, apply, compare, ops."""

from __future__ import annotations

import click

from onnxprune.cli.apply import apply
from onnxprune.cli.compare import compare
from onnxprune.cli.inspect import inspect
from onnxprune.cli.ops import ops

VERBS: dict[str, click.Command] = {"inspect": inspect, "apply": apply, "compare": compare, "ops": ops}
