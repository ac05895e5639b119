"""BLAS runs on one thread during a run, however many runs overlap, and as before afterwards."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from onnxprune.runtime.determinism import deterministic_run

assert np.__version__  # loads the BLAS whose threads are counted


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_overlapping_runs_have_one_thread_and_leave_as_many_as_before() -> None:
    """The second begins within the first and ends after it."""
    second_began, first_ended = threading.Event(), threading.Event()
    seen: list[set[int]] = []

    def first() -> None:
        with deterministic_run():
            assert second_began.wait(10)
        first_ended.set()

    def second() -> None:
        with deterministic_run():
            second_began.set()
            assert first_ended.wait(10)
            seen.append(blas_threads())

    with threadpool_limits(3, user_api="blas"):
        assert blas_threads() == {3}
        threads = [threading.Thread(target=work) for work in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == [{1}]
        assert blas_threads() == {3}


@pytest.mark.slow
def test_many_threads_that_begin_and_end_at_random() -> None:
    inside: list[set[int]] = []

    def work(seed: int) -> None:
        pause = threading.Event()
        for delay in np.random.default_rng(seed).uniform(0, 2e-3, 20):
            with deterministic_run():
                pause.wait(float(delay))
                inside.append(blas_threads())

    with threadpool_limits(3, user_api="blas"):
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(inside) == 80 and all(found == {1} for found in inside)
        assert blas_threads() == {3}


def test_an_error_inside_leaves_as_many_threads_as_before() -> None:
    with threadpool_limits(3, user_api="blas"):
        try:
            with deterministic_run(), deterministic_run():
                raise ValueError
        except ValueError:
            assert blas_threads() == {3}
