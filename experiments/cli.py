"""The command line: which commands there are, and how every one of them ends.

Exit codes: 0 fine, 1 the answer is no, 2 bad input, 70 a bug in tightfit, 130 interrupted.
Command modules import nothing heavy until they run, so that help comes at once.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import typer

from .. import __version__
from ..traces.errors import TightfitError, did_you_mean
from .bench.command import bench
from .check import check
from .compare import compare
from .convert import convert, strip
from .explain.command import explain
from .info import info
from .live.command import live
from .oracle.prove import prove
from .policy import policy
from .question.command import run
from .recording.command import record
from .replay import replay
from .screen import forget_compiling, printable
from .tune import tune
from .verify.command import verify
from .workloads import workloads

# In the order in which they are used: record, look, trust, ask, keep; and what the trust rests on.
COMMANDS = (
    record, info, check, replay, explain, tune, verify, compare, run, live, convert, strip,
    workloads, prove, bench,
)  # fmt: skip

OK, NO, BAD_INPUT, BUG, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 70, 130, 141

# Objects between looks for garbage, in a process of our own: a tenth of a short command went into
# looking through what Numba's modules had just made, and a quarter into doing so again at its end.
GARBAGE = 500_000

# Typer imported click once and now carries a copy of it; this finds the class in either.
UsageError: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="tightfit",
    help="Which PYTORCH_CUDA_ALLOC_CONF line would have fitted: exact what-if replay of PyTorch "
    "memory snapshots.",
    epilog="Exit codes: 0 fine, 1 the answer is no, 2 bad input.",
    # Plain help starts 90 ms sooner than panels, and is never wider than a page.
    rich_markup_mode=None,
    context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
)
for _command in COMMANDS:
    app.command()(_command)
app.add_typer(policy, name="policy")


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(f"tightfit {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Nothing a user does ends in a traceback.

    Args:
        argv: the words after `tightfit`; None = those of this process.
    """
    if "_TIGHTFIT_COMPLETE" in os.environ:
        app(prog_name="tightfit")  # the shell asks for completions; this exits
    if sys.stdout is None:  # closed by whoever started this (`>&-`): nobody wants the answer
        sys.stdout = open(os.devnull, "w")
    if sys.stderr is None:  # print would take standard output for it
        sys.stderr = open(os.devnull, "w")
    for stream in (sys.stdout, sys.stderr):
        # Where the terminal cannot show a character, a "?" is better than no answer.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    if argv is None:
        gc.set_threshold(GARBAGE)
        atexit.register(gc.freeze)
    try:
        code = _run(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has left (`| head`). Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (KeyboardInterrupt, typer.Abort):
        _complain("\ntightfit: interrupted")
        if argv is None and threading.active_count() > 1:
            _leave(INTERRUPTED)
        return INTERRUPTED
    finally:
        forget_compiling()


def _leave(code: int) -> NoReturn:
    """End this process now, whatever its threads are at: Python would wait for compiled code."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def _run(words: list[str]) -> int:
    """Run a command; word every failure but an interruption."""
    command: Any = typer.main.get_command(app)
    try:
        with command.make_context("tightfit", words) as context:
            command.invoke(context)
        return OK
    except typer.Exit as end:
        return end.exit_code
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a group alone, like tightfit alone
            print(error.format_message())
            return OK
        _fail(_usage_message(error))
        return BAD_INPUT
    except TightfitError as error:
        _fail(str(error))
        return BAD_INPUT
    except BrokenPipeError:
        raise
    except OSError as error:
        # A full disk, a missing permission: the message of the system, without our lines.
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return BAD_INPUT
    except MemoryError:
        _fail("not enough main memory on this machine for this recording")
        return BAD_INPUT
    except KeyboardInterrupt:
        raise
    except Exception as error:
        _fail(
            f"a bug in tightfit {__version__}, not in your input: {_words_of(error)} "
            "(set TIGHTFIT_DEBUG=1 for the traceback, and please report it)"
        )
        return BUG
    except BaseException as error:  # sys.exit and its like, which only a policy's file calls
        at = traceback.extract_tb(error.__traceback__)[-1]
        _fail(f"{at.filename}, line {at.lineno}: it ended the command: {_words_of(error)}")
        return BAD_INPUT


def _words_of(error: BaseException) -> str:
    """An error in a line; one of a policy's file may fail even to say what it is."""
    try:
        reason = " ".join(str(error).split())[:200]
    except Exception:
        reason = "it has no message"
    return f"{type(error).__name__}: {reason}"


def _fail(message: str) -> None:
    """Print why a command ended, as one paragraph; with TIGHTFIT_DEBUG also from where."""
    if os.environ.get("TIGHTFIT_DEBUG", "0") not in ("", "0"):
        traceback.print_exc()
    _complain(f"tightfit: {printable(message)}")


def _complain(words: str) -> None:
    """Print on standard error; where that cannot be written to, the exit code has to do."""
    try:
        print(words, file=sys.stderr, flush=True)
    except OSError:
        sys.stderr = open(os.devnull, "w")  # Python would fail once more when it flushes at exit


def _usage_message(error: Any) -> str:
    """Word a wrong command line: what is wrong, the nearest right word, where to read more."""
    context = error.ctx
    path = context.command_path if context is not None else "tightfit"
    message = error.format_message().strip() + _found(error)
    option = getattr(error, "option_name", None)
    if type(error).__name__ == "NoSuchOption" and option and context is not None:
        known = [word for p in context.command.get_params(context) for word in p.opts]
        message = f"no such option '{option}'" + (
            did_you_mean(option, [w for w in known if w.startswith("--")]) or "."
        )
    return f"{message} (see '{path} --help')"


def _found(error: Any) -> str:
    """Return ", found '...'" where a value was refused and Typer's message does not show it."""
    rows = getattr(error.__cause__, "errors", list)()  # Pydantic's, behind Typer's own
    values = [repr(str(row["input"])) for row in rows if "input" in row]
    return f", found {', '.join(values)}" if values else ""
