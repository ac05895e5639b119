"""Work on several threads gives what it gives on one, in the same order."""

from __future__ import annotations

import threading
import time

import pytest

from onnxprune.runtime import parallel
from onnxprune.runtime.parallel import in_order


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(parallel, "cores", lambda: request.param)
    return int(request.param)


def test_results_have_the_order_of_the_items(threads: int) -> None:
    def slow_first(i: int) -> int:
        time.sleep(0.01 if i == 0 else 0)
        return i * i

    assert list(in_order(slow_first, range(40))) == [i * i for i in range(40)]


def test_few_items_are_taken_ahead(threads: int) -> None:
    taken: list[int] = []
    results = in_order(lambda i: i, (taken.append(i) or i for i in range(1000)))
    assert next(results) == 0
    assert len(taken) <= 2 * threads + 1


def test_an_error_is_the_callers(threads: int) -> None:
    def fails(i: int) -> int:
        if i == 3:
            raise ValueError("the fourth")
        return i

    with pytest.raises(ValueError, match="the fourth"):
        list(in_order(fails, range(100)))


def test_work_inside_work_stays_on_its_thread(threads: int) -> None:
    """A pool whose threads all wait for each other would never end."""

    def inner(i: int) -> set[int]:
        return set(in_order(lambda _: threading.get_ident(), range(3)))

    found = list(in_order(inner, range(20)))
    assert all(len(idents) == 1 for idents in found)
