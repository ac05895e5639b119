"""The verb ``ops``."""

from __future__ import annotations

import click

from onnxprune.cli.command import Command, option
from onnxprune.cli.output import draw, print_json


@click.command(cls=Command, forms=["onnxprune ops [options]"])
@option("Options", "--json", "as_json", is_flag=True, help="As JSON")
def ops(as_json: bool) -> None:
    """Lists the operators that have a rule; any other one pins what it touches, and only that."""
    import onnxprune.ops  # registers them
    from onnxprune.ops import registry
    from onnxprune.report import inspect_tables

    assert onnxprune.ops
    data = [
        {"operator": name, "domain": domain, "since": since, "note": note}
        for domain, name, since, note in registry.table()
    ]
    if as_json:
        print_json({"operators": data})
    else:
        draw(inspect_tables.operators(data))
