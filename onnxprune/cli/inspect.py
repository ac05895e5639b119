"""The verb ``inspect``."""

from __future__ import annotations

import click

from onnxprune.cli.command import Command, option, say
from onnxprune.cli.output import draw, print_json, terminal_width
from onnxprune.cli.page import html_option, page_path, write
from onnxprune.cli.paths import target
from onnxprune.errors import InputError


@click.command(cls=Command, forms=["onnxprune inspect MODEL [options]"])
@click.argument("model")
@option("Options", "--mixing", is_flag=True, help="See the model as pruning with --mixing sees it")
@option("Options", "--shrink", multiple=True, metavar="REGEX", help="As for pruning; repeatable")
@option("Options", "--attention", default="heads", metavar="KIND", help="heads or dims, as for pruning  [heads]")
@option(
    "Options",
    "--sparsity",
    is_flag=True,
    help="Zeros of every weight instead, and what TensorRT's sparse tensor cores can use",
)
@option("Options", "--json", "as_json", is_flag=True, help="Every group and member, or every weight, as JSON")
@html_option("Options")
@option("Options", "--anonymise", is_flag=True, help="Write the graph without weights and names instead")
@option("Options", "-o", "--output", metavar="FILE", help="What --anonymise writes  [MODEL.anonymous.onnx]")
def inspect(
    model: str,
    mixing: bool,
    shrink: tuple[str, ...],
    attention: str,
    sparsity: bool,
    as_json: bool,
    html: str | None,
    anonymise: bool,
    output: str | None,
) -> None:
    """Shows the groups of channels of a model: what they slice, their grade, and why the rest is pinned.

    Groups of grade exact may be pruned. Those of grade mixing change what survives, and are left alone unless
    --mixing is given. What is pinned is kept.

    With --anonymise it writes a model to report a fault with: operators, attributes and shapes are as they were;
    weights, names, texts and metadata are removed. inspect takes it like any other.
    """
    page = page_path(html, model)
    if anonymise:
        if page is not None:
            raise InputError("--html shows the groups, and --anonymise none", "give one of them")
        _anonymise(model, output)
        return
    if output is not None:
        raise InputError("-o says where --anonymise writes", "give both")
    from onnxprune import api
    from onnxprune.options import Options
    from onnxprune.pipeline.scenario import scenario
    from onnxprune.report import groups, inspect_tables, sparsity_data
    from onnxprune.report.page.build import inspection_page
    from onnxprune.report.sparsity_tables import tables

    options = Options.of(0.0, mixing=mixing, attention=attention, shrink=shrink)
    analysis = api.analyze(model, options=options)
    findings = (
        sparsity_data.zeros(analysis.model, analysis.coupling) if sparsity else groups.inspection(analysis.coupling)
    )
    data = {"model": model, **findings}
    shown = tables if sparsity else inspect_tables.inspected
    if page is not None:
        parts, other = shown(data, None), scenario(model, analysis, options)
        write(page, lambda command: inspection_page(model, command, parts, analysis.coupling, other))
    if as_json:
        print_json(data)
    else:
        draw(shown(data, terminal_width()))


def _anonymise(model: str, output: str | None) -> None:
    path = target(model, output, kind="anonymous", force=True)
    from onnxprune.model.anonymize import anonymised
    from onnxprune.model.model import Model, load, save

    save(Model(anonymised(load(model, weights=False))), path)
    say(f"wrote {path}: no weights, no names")
