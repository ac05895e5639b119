"""The verb ``inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxprune.cli.command import Command, option, say
from onnxprune.cli.output import draw, print_json, terminal_width
from onnxprune.cli.page import html_option, page_path, scenario_of, write
from onnxprune.cli.paths import target, writable, written
from onnxprune.errors import InputError

if TYPE_CHECKING:
    from onnxprune.coupling.coupling import Coupling

SVG, DOT = ".svg", ".dot"
"""Kinds of files that a picture of the graph is written to."""


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
@option("Options", "--graph", metavar="FILE", help="Draw the groups on the graph: FILE.svg, or FILE.dot for Graphviz")
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
    graph: str | None,
    anonymise: bool,
    output: str | None,
) -> None:
    """Shows the groups of channels of a model: what they slice, their grade, and why the rest is pinned.

    Groups of grade exact may be pruned. Those of grade mixing change what survives, and are left alone unless
    --mixing is given. What is pinned is kept.

    With --anonymise it writes a model to report a fault with: operators, attributes and shapes are as they were;
    weights, names, texts and metadata are removed. inspect takes it like any other, except with --sparsity.
    """
    page, drawing = page_path(html, model), _graph_path(graph, model)
    if anonymise:
        shows = {"--html": page, "--graph": drawing, "--json": as_json, "--sparsity": sparsity}
        asked = [name for name, given in shows.items() if given]
        if asked:
            raise InputError(f"{asked[0]} shows what is in the model, and --anonymise nothing", "give one of them")
        _anonymise(model, output)
        return
    if output is not None:
        raise InputError("-o says where --anonymise writes", "give both")
    from onnxprune import api
    from onnxprune.options import Options
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
        parts, other = shown(data, None), scenario_of(model, analysis, options)
        write(page, lambda command: inspection_page(model, command, parts, analysis.coupling, other))
    with written(drawing, "" if drawing is None else _drawn(drawing, model, analysis.coupling)):
        if as_json:
            print_json(data)
        else:
            draw(shown(data, terminal_width()))


def _graph_path(graph: str | None, model: str) -> Path | None:
    """The file of the picture, if one was named.

    Raises:
        InputError: It cannot be written, or its kind is not known.
    """
    if graph is None:
        return None
    path = Path(graph)
    if path.suffix not in (SVG, DOT):
        raise InputError(f"--graph: {graph!r} is neither {SVG} nor {DOT}", f"--graph groups{SVG}, say")
    writable(path, model)
    return path


def _drawn(path: Path, model: str, coupling: Coupling) -> str:
    from onnxprune.report.graph_dot import dot
    from onnxprune.report.graph_picture import picture
    from onnxprune.report.graph_svg import svg

    return (svg if path.suffix == SVG else dot)(picture(model, coupling))


def _anonymise(model: str, output: str | None) -> None:
    path = target(model, output, kind="anonymous", force=True)
    from onnxprune.model.anonymize import anonymised
    from onnxprune.model.model import Model, load
    from onnxprune.model.save import save

    save(Model(anonymised(load(model, weights=False))), path)
    say(f"wrote {path}: no weights, no names")
