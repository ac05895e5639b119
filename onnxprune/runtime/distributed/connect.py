"""Connects to a Dask scheduler, or starts one with workers on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from onnxprune import __version__
from onnxprune.common.executor import using
from onnxprune.errors import InputError, option
from onnxprune.runtime.distributed.dask_executor import DaskExecutor

SECONDS = 10.0
"""Seconds that a scheduler has to answer."""
LOCAL = "local"
LONG_LOSS = {"distributed.deploy.lost-worker-timeout": "1 day"}
"""Else a local cluster closes a nanny that is about to start a worker anew 15 seconds after it lost an earlier one."""
DEAF = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
"""What a worker of this machine begins with: Ctrl-C is for the run, which ends its workers."""
GIVE = f"{LOCAL}, {LOCAL}:4, or tcp://HOST:8786, where dask scheduler listens"


@contextlib.contextmanager
def connected(scheduler: str | None) -> Iterator[Any]:
    """A client of a scheduler while the block lasts; None without one.

    Args:
        scheduler: Its address, ``tcp://HOST:PORT``; ``local`` starts one with a worker process a core on this machine,
            ``local:N`` one with N.

    Raises:
        InputError: Dask is not installed, the address is none, or nobody answers there.
    """
    if scheduler is None:
        yield None
        return
    name, colon, rest = scheduler.partition(":")
    number = int(rest) if rest.isdigit() else 0
    if (name == LOCAL and (number < 1 if colon else False)) or (name != LOCAL and not rest.startswith("//")):
        raise InputError(f"{scheduler!r} is no scheduler", f"give {GIVE}")
    distributed = _distributed()
    with contextlib.ExitStack() as stack:
        address: Any = scheduler
        if name == LOCAL:
            import dask

            stack.enter_context(dask.config.set(LONG_LOSS))
            address = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=number or os.cpu_count() or 1,
                    threads_per_worker=1,
                    dashboard_address=":0",
                    silence_logs=logging.CRITICAL,
                    preload=[DEAF],
                )
            )
        try:
            client = stack.enter_context(distributed.Client(address, timeout=SECONDS, set_as_default=False))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{scheduler}: no scheduler answers", "start it there with dask scheduler, and workers with dask worker"
            ) from error
        yield client


@contextlib.contextmanager
def executing(client: Any) -> Iterator[None]:
    """Lets the workers of a client do tasks while the block lasts; None for this process.

    Raises:
        InputError: It is no client, it has no workers, or they have another version of onnxprune.
    """
    if client is None:
        yield
        return
    distributed = _distributed()
    if not isinstance(client, distributed.Client):
        raise InputError(f"client must be a dask.distributed.Client, not {type(client).__name__}", "Client(address)")
    executor = DaskExecutor(client)
    executor.check_workers(__version__)
    with using(executor):
        yield


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        needs = f"{option('client')} needs Dask, which is not installed"
        raise InputError(needs, "pip install 'onnxprune[distributed]'") from error
    return distributed
