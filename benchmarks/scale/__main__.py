"""How far one broker goes: many sessions with children of their own, growing messages, a storm of starts.

    python -m benchmarks.scale

The broker only: no peer keeps a thousand children. What must hold is that costs stay flat as sessions grow
and linear as messages grow, and that nobody waits for what others do. The tables go to stdout, the figures
and the lines of the plots to `.cache/bench/scale.json`. It takes a minute and a half.

Reading order: this file, `sessions`, `messages`, `storm` (what is done); `crowd`,
`load`, `opening`, `http` (the clients); `broker`, `numbers`, `result`.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from benchmarks.programs import end_tagged
from benchmarks.scale.broker import raise_descriptor_limit
from benchmarks.scale.messages import messages
from benchmarks.scale.result import Result, listed, shown, store
from benchmarks.scale.sessions import calls_as_sessions_grow, sessions
from benchmarks.scale.storm import CONNECTIONS, storm
from benchmarks.tools import ROOT, Tools, prepare

__all__ = ["main"]

_STORED = ROOT / ".cache" / "bench" / "scale.json"
_PARTS = ("sessions", "growth", "messages", "storm")
_SESSIONS_MAX = 20_000
_INTERRUPTED = 130  # what a shell reports for SIGINT


def main() -> int:
    """Measure, print the tables, write the file; return the exit status."""
    options = _parse()
    # Both, even where the shell that started us ignores Ctrl-C for background jobs.
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    # The broker inherits it, and has more descriptors than any of our clients.
    if problem := raise_descriptor_limit(max(options.sessions, CONNECTIONS)):
        print(problem, file=sys.stderr)
        return 2
    tools = prepare()
    for note in tools.notes:
        print(note, flush=True)
    tag = f"bench-scale-{os.getpid()}"
    results: list[Result] = []
    try:
        for result in _measure(options, tools, tag):
            print(shown(result), end="\n\n", flush=True)
            results.append(result)
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        end_tagged(tag)
    if options.part is None:  # one part alone must not replace the figures of all
        store(_STORED, results)
    return 1 if any(result.problems for result in results) else 0


def _measure(options: argparse.Namespace, tools: Tools, tag: str) -> Iterator[Result]:
    quick: bool = options.quick
    steps = _steps(options.sessions)
    parts: dict[str, Callable[[], Sequence[Result]]] = {
        "sessions": lambda: sessions(tools, tag, steps=steps, seconds=5 if quick else 20),
        "growth": lambda: [calls_as_sessions_grow(tools, tag, steps=steps, seconds=2 if quick else 5)],
        "messages": lambda: [messages(tools, tag, seconds=0.1 if quick else 0.5)],
        "storm": lambda: [storm(tools, tag, count=max(1, options.sessions // 2))],
    }
    for name, run in parts.items():
        if options.part in (None, name):
            print(f"measuring: {name}", file=sys.stderr)
            yield from _tried(name, run)


def _tried(name: str, run: Callable[[], Sequence[Result]]) -> Sequence[Result]:
    """Run a part; one that fails is a problem, and the others are still measured."""
    try:
        return run()
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as exc:
        return [listed(name, (), problems=[f"it could not be measured: {exc}"])]


def _steps(sessions: int) -> Sequence[int]:
    """Return the numbers of sessions to stop at: a tenth, a quarter, a half, all."""
    return sorted({max(20, sessions // 10), max(25, sessions // 4), max(30, sessions // 2), sessions})


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter runs, and 300 sessions")
    parser.add_argument("--sessions", type=int, help="how many at most (default: 1000); a storm opens half")
    parser.add_argument("--part", choices=_PARTS, help="only this one, without writing the file")
    options = parser.parse_args()
    options.sessions = options.sessions or (300 if options.quick else 1000)
    if not 40 <= options.sessions <= _SESSIONS_MAX:
        parser.error(f"--sessions: expected 40 to {_SESSIONS_MAX}, found {options.sessions}")
    return options


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
