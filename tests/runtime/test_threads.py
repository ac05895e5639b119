"""The same bytes, whatever the number of threads and cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT
from tests.support.threads import RUNS


def digests(threads: int, cpus: int | None) -> dict[str, list[str]]:
    command = [sys.executable, "-m", "tests.support.threads", str(threads), *([] if cpus is None else [str(cpus)])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot choose how many cores there are")
def test_one_thread_and_several_give_the_same_bytes() -> None:
    """Models, plans and reports: with one thread on one core, and with four on all of them."""
    one = digests(1, 1)
    assert len(one) == len(RUNS) + 1
    assert digests(4, None) == one
