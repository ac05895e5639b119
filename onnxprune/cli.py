"""The command line: words, no logic."""
from __future__ import annotations
import json, sys
import click

@click.command()
@click.argument("model")
@click.option("-o", "output")
@click.option("--ratio", type=float)
@click.option("--importance", default="l2")
@click.option("--mixing", is_flag=True)
@click.option("--repair", default="auto")
@click.option("--plan", "plan_file")
@click.option("--no-verify", is_flag=True)
def main(model, output, ratio, importance, mixing, repair, plan_file, no_verify):
    import onnxprune
    r = onnxprune.prune(model, ratio, importance=importance, mixing=mixing, repair=repair, verify=not no_verify)
    r.save(output)
    if plan_file:
        open(plan_file, "w").write(r.plan.to_json())
    print(json.dumps({k: v for k, v in r.report.items() if k != "groups"}))

if __name__ == "__main__":
    main()
