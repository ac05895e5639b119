"""The other verbs: inspect, sensitivity, sweep, apply, slice, finetune, vocabulary, measure, compare, verify, ops."""

from __future__ import annotations

import click

from onnxprune.cli.apply import apply
from onnxprune.cli.compare import compare
from onnxprune.cli.finetune import finetune
from onnxprune.cli.inspect import inspect
from onnxprune.cli.measure import measure
from onnxprune.cli.ops import ops
from onnxprune.cli.sensitivity import sensitivity
from onnxprune.cli.slice import slice
from onnxprune.cli.sweep import sweep
from onnxprune.cli.verify import verify
from onnxprune.cli.vocabulary import vocabulary

VERBS: dict[str, click.Command] = {
    "inspect": inspect,
    "sensitivity": sensitivity,
    "sweep": sweep,
    "apply": apply,
    "slice": slice,
    "finetune": finetune,
    "measure": measure,
    "compare": compare,
    "verify": verify,
    "vocabulary": vocabulary,
    "ops": ops,
}
