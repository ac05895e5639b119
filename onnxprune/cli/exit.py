"""How a command ends: exit codes, error lines, signals."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence

import click

from onnxprune.cli.command import TYPED, complain, forget_warnings, say, warn
from onnxprune.cli.signals import Terminated, interruptible
from onnxprune.errors import InternalError, OnnxPruneError

USAGE = 2


def guarded(command: click.Command, name: str, arguments: Sequence[str]) -> int:
    """Runs a command and turns whatever ends it into an exit status.

    Args:
        command: The command.
        name: How the command is called in its own help.
        arguments: Its arguments.

    Returns:
        0 done, else the status of the error; 2 for mistakes of usage. Signals are passed on to the process
        once what was open is closed, so that a shell sees the death that it expects (130, 143, 141).
    """
    forget_warnings()
    try:
        with interruptible(), _logged_warnings(), command.make_context(name, list(arguments)) as context:
            context.meta[TYPED] = shlex.join([*name.split(), *map(str, arguments)])
            command.invoke(context)
            sys.stdout.flush()
        return 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        _usage(error, name)
        return USAGE
    except OnnxPruneError as error:
        complain(error.message, error.hint)
        return error.exit_code
    except BrokenPipeError:
        return _die(signal.Signals(getattr(signal, "SIGPIPE", 13)))
    except (KeyboardInterrupt, click.Abort):
        return _die(signal.SIGINT)
    except Terminated:
        return _die(signal.SIGTERM)
    except Exception as error:
        say(traceback.format_exc().rstrip(), err=True)
        fault = InternalError(f"internal error: {type(error).__name__}: {error}")
        complain(fault.message, fault.hint)
        return fault.exit_code


OTHER_NAMES = {
    **dict.fromkeys(["calibration", "calibration-data", "calib-data", "data", "dataset", "images"], "--calib"),
    **dict.fromkeys(["sparsity", "amount", "rate", "pruning-ratio", "prune-ratio", "percent"], "--ratio"),
    **dict.fromkeys(["macs", "flops"], "--target macs=0.5"),
    **dict.fromkeys(["params", "parameters"], "--target params=0.5"),
    **dict.fromkeys(["size", "bytes"], "--target bytes=0.5"),
    **dict.fromkeys(["latency", "time", "speed", "speedup", "speed-up", "milliseconds"], "--target latency=0.6"),
    **dict.fromkeys(["backend", "runtime", "device"], "--engine"),
    **dict.fromkeys(["out", "outfile", "save"], "--output"),
    **dict.fromkeys(["input-shapes", "shape", "shapes", "overwrite-input-shape"], "--input-shape"),
    **dict.fromkeys(["criterion", "method", "score"], "--importance"),
    **dict.fromkeys(["exclude", "skip", "ignored-layers"], "--ignore"),
    **dict.fromkeys(["include", "layers"], "--only"),
    **dict.fromkeys(["overwrite", "yes"], "--force"),
    **dict.fromkeys(["config"], "--recipe"),
    **dict.fromkeys(["round", "channel-multiple", "multiple"], "--round-to"),
}
"""What other tools call options, with the name here."""


def _usage(error: click.ClickException, name: str) -> None:
    """A mistake on the command line in one line, with a hint where one is at hand."""
    hint = f"{name} --help lists the options"
    message = error.message
    param = getattr(error, "param", None)
    if isinstance(error, click.NoSuchOption):
        near = list(error.possibilities or [])  # the nearest first
        meant = OTHER_NAMES.get(error.option_name.lstrip("-").replace("_", "-"), near[0] if near else None)
        message, hint = f"no such option: {error.option_name}", f"did you mean {meant}?" if meant else hint
    elif isinstance(error, click.MissingParameter) and param is not None:
        name_of = param.opts[-1] if isinstance(param, click.Option) else param.human_readable_name.upper()
        message = f"{name_of} is missing"
    elif isinstance(param, click.Option):
        message = f"{param.opts[-1]}: {message}"
    complain(message.rstrip("."), hint)


class _Warnings(logging.Handler):
    """Shows each record as a warning of one line."""

    def emit(self, record: logging.LogRecord) -> None:
        warn(record.getMessage())


@contextlib.contextmanager
def _logged_warnings() -> Iterator[None]:
    """Shows warnings of plug-ins that cannot be loaded; a report repeats them."""
    handler = _Warnings(logging.WARNING)
    modules = ("extensions.registry", "pipeline.data", "pipeline.compare")
    loggers = [logging.getLogger(f"onnxprune.{module}") for module in modules]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def _die(number: signal.Signals) -> int:
    """Ends the process by a signal; its shell status where the system has no such thing."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing may fail at the last flush
    if os.name == "posix":
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    return 128 + number
