"""Feeds the command line broken models, plans, statistics, recipes and options, and looks how it ends.

    python tools/fuzz.py --count 2000 [--start 0] [--keep FOLDER] [--only KIND]

Every input is made from its number alone: a valid set of files is drawn and something in it is changed, bytes or
fields. A child process runs the inputs one after another; this one watches it. What counts as a finding: an exit status
that is not documented (4, a bug, among them), no end within 20 s, a process that dies, an input that changed, or a file
left behind by a run that failed. Findings are printed with their command line, their files kept under --keep. Exit
status 0 when there is none.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.fuzzing import KINDS, Case, seeds

PATIENCE = 20.0
MEMORY = 8 * 2**30


def judged(case: Case, folder: Path) -> str:
    """Runs a case in a folder of its own; what is wrong with how it ended, "" if nothing."""
    from onnxprune.cli import main

    before = contents(folder)
    out, err = io.StringIO(), io.StringIO()
    os.chdir(folder)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(case.arguments)
        except BaseException as error:
            return f"{type(error).__name__} out of main: {error}"
    after = contents(folder)
    if code not in (0, 1, 2, 3):
        lines = err.getvalue().strip().splitlines()
        place = next((line.strip() for line in reversed(lines) if line.strip().startswith("File ")), "")
        return f"exit status {code}: {' '.join(x for x in lines if x.startswith('error'))} {place}"
    named = dict(zip(case.arguments, case.arguments[1:], strict=False)).get("-o")  # replaced, where it is no input
    if any(after.get(name) != content for name, content in before.items() if name != named or code):
        return "an input changed"
    if code in (2, 3) and set(after) != set(before):
        return f"exit status {code}, and left behind: {sorted(set(after) - set(before))}"
    if code in (2, 3) and not any(line.startswith("error: ") for line in err.getvalue().splitlines()):
        return f"exit status {code} without a word: {err.getvalue()[:100]!r}"
    if temporary := [n for n in after if n not in before and (n.startswith(".") or n.endswith(".tmp"))]:
        return f"left behind: {temporary}"
    case.ended = code
    return ""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def work(start: int, stop: int, only: str | None) -> None:
    """The child: a line before each case and one after it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    originals = seeds()
    for number in range(start, stop):
        print(json.dumps({"case": number}), flush=True)
        with tempfile.TemporaryDirectory() as folder:
            case = Case.of(number, originals, Path(folder), only)
            fault = judged(case, Path(folder))
        print(
            json.dumps(
                {"case": number, "kind": case.kind, "code": case.ended, "fault": fault, "arguments": case.arguments}
            ),
            flush=True,
        )


class Watch:
    """The child and how long it has been silent."""

    def __init__(self, start: int, stop: int, only: str | None) -> None:
        command = [sys.executable, __file__, "--child", "--start", str(start), "--count", str(stop - start)]
        self.process = subprocess.Popen(
            command + (["--only", only] if only else []), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def line(self, patience: float) -> dict[str, Any] | None:
        """The next line, None where none comes in time or any more."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], patience)
        text = self.process.stdout.readline() if ready else b""
        return json.loads(text) if text else None

    def end(self) -> str:
        """Ends the child; how it ended or was ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return f"the process died ({self.process.wait(timeout=0.5)})"
        self.process.kill()
        self.process.wait()
        return f"no end within {PATIENCE:.0f} s"


def confirmed(fault: str, number: int, only: str | None) -> str:
    """A case that did not end in time gets more of it, alone: the machine may have been busy."""
    if not fault.startswith("no end"):
        return fault
    again = Watch(number, number + 1, only)
    done = again.line(6 * PATIENCE) and again.line(6 * PATIENCE)
    again.process.kill()
    again.process.wait()
    return fault if done is None else str(done["fault"])


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        work(args.start, args.start + args.count, args.only)
        return 0
    at, stop, began = args.start, args.start + args.count, time.perf_counter()
    codes: collections.Counter[str] = collections.Counter()
    findings: collections.Counter[str] = collections.Counter()
    while at < stop:
        watch = Watch(at, stop, args.only)
        first = True
        while at < stop:
            begun = watch.line(60.0 if first else PATIENCE)  # the first one waits for imports
            done = watch.line(PATIENCE + 20 * first) if begun else None
            fault = confirmed(watch.end(), at, args.only) if done is None else done["fault"]
            codes[f"{done['kind']} {done['code']}" if done else "none"] += 1
            if fault:
                findings[fault[:160]] += 1
                if findings[fault[:160]] <= 3:
                    print(f"case {at}: {fault} {done['arguments'] if done else ''}", flush=True)
                if args.keep:
                    shutil.rmtree(args.keep / str(at), ignore_errors=True)
                    (args.keep / str(at)).mkdir(parents=True)
                    Case.of(at, seeds(), args.keep / str(at), args.only)
            at, first = at + 1, False
            if done is None:
                break
        watch.process.kill()
        watch.process.wait()
    print(
        f"{args.count} inputs from {args.start} in {time.perf_counter() - began:.0f} s, {sum(findings.values())} "
        f"findings of {len(findings)} kinds; kind and exit status: {dict(sorted(codes.items()))}"
    )
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
