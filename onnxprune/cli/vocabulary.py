"""The verb ``vocabulary``."""

from __future__ import annotations

from pathlib import Path

import click

from onnxprune.cli.command import Command, option, say
from onnxprune.cli.output import announcing, draw, print_json
from onnxprune.cli.paths import SUFFIX, target, writable, written


@click.command(cls=Command, forms=["onnxprune vocabulary MODEL KEEP [options]"])
@click.argument("model")
@click.argument("keep")
@option("Options", "--tokens", type=int, metavar="N", help="Of counted ids, keep the N most frequent  [all used]")
@option("Options", "--remap", default="inside", metavar="WHERE", help="inside, or outside: feed new ids  [inside]")
@option("Options", "--logits", default="kept", metavar="WHICH", help="Values of kept ids, or all: old places  [kept]")
@option("Options", "--unknown", type=int, metavar="ID", help="What dropped ids are taken for  [of tokenizer.json]")
@option("Options", "--check", metavar="FILE.npz", help="Texts as ids: how many of theirs are dropped")
@option("Options", "--input", metavar="NAME", help="The input that holds ids  [that of the largest table]")
@option("Options", "--seed", type=int, default=0, metavar="N", help="Seed of the ids to compare on  [0]")
@option("Options", "-o", "--output", metavar="FILE", help="What to write  [MODEL.vocabulary.onnx]")
@option("Options", "--force", is_flag=True, help="Replace MODEL.vocabulary.onnx where it exists")
@option("Options", "--json", "as_json", is_flag=True, help="Report as JSON on stdout, words on stderr")
@option("Options", "--quiet", is_flag=True, help="No report")
def vocabulary(
    model: str,
    keep: str,
    tokens: int | None,
    remap: str,
    logits: str,
    unknown: int | None,
    check: str | None,
    input: str | None,
    seed: int,
    output: str | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Drops ids from the vocabulary of a language model, in its embedding and its output layer.

    KEEP is a .txt file of ids that stay, one a line, or an .npz file with counts or with texts as ids. The map from
    new to old ids is written beside the result, under its name with .ids.json in place of .onnx.
    """
    path = target(model, output, keep, *([check] if check else []), force=force, kind="vocabulary")
    ids = _map_path(path, model, keep, *([check] if check else []))
    from onnxprune.pipeline.vocabulary import cut_vocabulary
    from onnxprune.report.vocabulary import vocabulary_lines

    with announcing(quiet or as_json) as stage:
        stage("vocabulary")
        result = cut_vocabulary(
            model, keep, tokens=tokens, remap=remap, logits=logits, unknown=unknown, check=check, input=input, seed=seed
        )
        with written(ids, result.map_json()):
            result.save(path)
    if as_json:
        print_json({"model": model, "output": str(path), "ids": str(ids), **result.report.to_dict()})
        if not quiet:
            say(f"wrote {path}", err=True)
    elif not quiet:
        draw(vocabulary_lines(result.report, model, str(path)))


def _map_path(path: Path, *inputs: str) -> Path:
    """The file of the map beside a model."""
    ids = path.with_name(f"{path.name.removesuffix(SUFFIX)}.ids.json")
    writable(ids, *inputs)
    return ids
