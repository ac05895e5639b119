"""The other verbs: inspect, apply, compare, ops."""

from __future__ import annotations

from dataclasses import asdict

import click

from onnxprune.cli import asked, files
from onnxprune.cli.showing import announcing, draw, print_json, save, show
from onnxprune.cli.words import Command, option, say
from onnxprune.errors import InputError


@click.command(cls=Command, forms=["onnxprune inspect MODEL [options]"])
@click.argument("model")
@option("Options", "--mixing", is_flag=True, help="See the model as pruning with --mixing sees it")
@option("Options", "--shrink", multiple=True, metavar="REGEX", help="As for pruning; repeatable")
@option("Options", "--attention", default="heads", metavar="KIND", help="heads or dims, as for pruning  [heads]")
@option("Options", "--json", "as_json", is_flag=True, help="Every group and member as JSON")
@option("Options", "--anonymise", is_flag=True, help="Write the graph without weights and names instead")
@option("Options", "-o", "--output", metavar="FILE", help="What --anonymise writes  [MODEL.anonymous.onnx]")
def inspect(model: str, mixing: bool, shrink: tuple[str, ...], attention: str, as_json: bool, anonymise: bool,
            output: str | None) -> None:
    """Shows the groups of channels of a model: what they slice, their grade, and why the rest is pinned.

    Groups of grade exact may be pruned. Those of grade mixing change what survives, and are left alone unless
    --mixing is given. What is pinned stays whole.

    With --anonymise it writes a model to report a fault with: operators, attributes and shapes are as they were;
    weights, names, texts and metadata are gone. inspect takes it like any other.
    """
    if anonymise:
        _anonymise(model, output)
        return
    if output is not None:
        raise InputError("-o says where --anonymise writes", "give both")
    from onnxprune import api
    from onnxprune.report import groups, terminal

    data = {"model": model, **groups.inspection(api.analyze(
        model, mixing=mixing, attention=attention, shrink=shrink).coupling)}
    if as_json:
        print_json(data)
    else:
        draw(terminal.inspected(data))


def _anonymise(model: str, output: str | None) -> None:
    path = files.target(model, output, kind="anonymous", force=True)
    from onnxprune.anonymous import anonymised
    from onnxprune.model import Model, load, save

    save(Model(anonymised(load(model, weights=False))), path)
    say(f"wrote {path}: no weights, no names")


@click.command(cls=Command, forms=["onnxprune apply PLAN MODEL [options]"])
@click.argument("plan")
@click.argument("model")
@option("Options", "-o", "--output", metavar="FILE", help="What to write  [MODEL.pruned.onnx]")
@option("Options", "--force", is_flag=True, help="Replace MODEL.pruned.onnx where it exists")
@option("Options", "--no-verify", is_flag=True, help="Do not run both models and compare them")
@option("Options", "--input-shape", multiple=True, metavar="NAME:1,3,8,8",
        help="Shape to run and count MACs at; repeatable")
@option("Options", "--json", "as_json", is_flag=True, help="Report as JSON on stdout, words on stderr")
@option("Options", "--quiet", is_flag=True, help="No report; warnings and errors only")
def apply(plan: str, model: str, output: str | None, force: bool, no_verify: bool, input_shape: tuple[str, ...],
          as_json: bool, quiet: bool) -> None:
    """Takes from a model what a plan says: from the one that it was made for, or another checkpoint of it."""
    shapes = asked.shapes(input_shape)
    path = files.target(model, output, plan, force=force)
    written = files.read_plan(plan)
    from onnxprune import api
    from onnxprune.options import Options
    from onnxprune.planning import Plan

    made = Plan.from_json(written)
    with announcing(quiet or as_json) as stage:
        result = api.run_plan(made, model, Options(ratio=0.0, verify=not no_verify, input_shapes=shapes), stage)
        save(result, path, stage)
    show({"model": model, "output": str(path), "plan": plan, **result.report}, as_json=as_json, quiet=quiet)


@click.command(cls=Command, forms=["onnxprune compare A B [options]"])
@click.argument("a")
@click.argument("b")
@option("Options", "--runs", type=click.IntRange(min=1), default=20, metavar="N",
        help="Timed runs of each model, interleaved  [20]")
@option("Options", "--input-shape", multiple=True, metavar="NAME:1,3,8,8", help="Shape to run at; repeatable")
@option("Options", "--plan", metavar="FILE", help="What B lost of inputs and outputs, where --shrink let it")
@option("Options", "--json", "as_json", is_flag=True, help="As JSON")
def compare(a: str, b: str, runs: int, input_shape: tuple[str, ...], plan: str | None, as_json: bool) -> None:
    """Shows how far the outputs of model B are from those of A on made inputs, and how long each takes."""
    shapes = asked.shapes(input_shape)
    from onnxprune import cost, planning, verification
    from onnxprune.model import load
    from onnxprune.narrowing import WHOLE
    from onnxprune.report import clean, terminal

    lost = planning.narrowing(planning.Plan.from_json(files.read_plan(plan))) if plan is not None else WHOLE
    first, second = cost.measure(load(a), shapes), cost.measure(load(b), lost.shapes(shapes))
    with announcing(as_json) as stage:
        stage("run")
        found = verification.compare(a, b, input_shapes=shapes, runs=runs, narrowing=lost)
    data = clean({
        "a": a, "b": b,
        **{key: {"before": getattr(first, key), "after": getattr(second, key)} for key in ("params", "macs", "bytes")},
        "drift": {name: asdict(d) for name, d in found.drift.items()},
        "latency": {"before": found.seconds_before, "after": found.seconds_after},
        "runs": runs,
    })
    if as_json:
        print_json(data)
    else:
        draw(terminal.compared(data))


@click.command(cls=Command, forms=["onnxprune ops [options]"])
@option("Options", "--json", "as_json", is_flag=True, help="As JSON")
def ops(as_json: bool) -> None:
    """Lists the operators that have a rule; any other one pins what it touches, and only that stays whole."""
    import onnxprune.ops  # registers them
    from onnxprune.ops import registry
    from onnxprune.report import terminal

    assert onnxprune.ops
    data = [{"operator": name, "domain": domain, "since": since, "note": note}
            for domain, name, since, note in registry.table()]
    if as_json:
        print_json({"operators": data})
    else:
        draw(terminal.operators(data))


VERBS: dict[str, click.Command] = {"inspect": inspect, "apply": apply, "compare": compare, "ops": ops}
