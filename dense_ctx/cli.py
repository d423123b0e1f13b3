"""`dense-ctx`: parse the arguments, run a registered command, print errors of dense_ctx as one line."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from types import FrameType

from .commands.allocator import reuse_freed_memory
from .commands.arguments import VerbParser
from .commands.base import Command
from .errors import DenseCtxError, Interruption, PluginError
from .gateway import translated
from .plugins import registry
from .progress import bars

DEBUG_VARIABLE = "DENSE_CTX_DEBUG"  # "1": show the traceback of an error, as --debug does


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs; importing their modules loads no torch."""
    parser = argparse.ArgumentParser(
        prog="dense-ctx", description="Dense, pixel-level features from vision foundation models."
    )
    parser.add_argument(
        "--version", action="version", version=f"dense-ctx {version('dense-ctx')}", help="print the version"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=VerbParser)
    for verb in registry().names("command"):
        try:
            command = registry().create("command", verb)
        except PluginError:  # reported by a warning; the other verbs keep working
            continue
        options = verbs.add_parser(
            verb, help=command.help, description=command.description or command.help, epilog=command.epilog
        )
        command.add_arguments(options)
        options.set_defaults(run=command.run, verb=verb)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; default those of the process.

    Returns:
        0; 1 where a verb reports failure, 2 for a DenseCtxError (one line on stderr), 128 + the signal's number after
        SIGINT (130) or SIGTERM (143).
    """
    plain = warnings.formatwarning
    warnings.formatwarning = _format_warning
    try:
        with _interruptible():
            args = build_parser().parse_args(argv)
            if argv is None and not any(vars(args).get(name) for name in getattr(args.run, "__self__", Command).bounds):
                reuse_freed_memory()
            return _run(args)
    finally:
        warnings.formatwarning = plain


def _run(args: argparse.Namespace) -> int:
    # read when torch loads: idle threads sleep rather than spin on a core that another program needs
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    args.debug = debug = args.debug or os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")
    try:
        with bars():
            status: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader (`| head`) has gone; spare the interpreter the same error at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        if isinstance(error, KeyboardInterrupt):
            number = error.signal if isinstance(error, Interruption) else signal.SIGINT
            note = getattr(args.run, "__self__", Command).stop_note.format(**vars(args))
            print(f"\nstopped by {signal.Signals(number).name}: {note}", file=sys.stderr)
            return 128 + number
        ours = translated(error, args.verb, "--max-memory {}" if "max_memory" in args else "")
        if ours is None:
            raise
        print(f"error: {ours}{'' if isinstance(error, DenseCtxError) else ' (--debug shows where)'}", file=sys.stderr)
        return 2
    return status


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM raise Interruption in the block, so that partial files are removed and locks released."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interruption(number)

    main_thread = threading.current_thread() is threading.main_thread()  # Python allows handlers there alone
    before = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)} if main_thread else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """One line; with the position in the source only for warnings to programmers (FutureWarning ...)."""
    text = " ".join(str(message).split())
    where = "warning" if issubclass(category, UserWarning) else f"{filename}:{lineno}: {category.__name__}"
    return f"{where}: {text}\n"


if __name__ == "__main__":
    sys.exit(main())
