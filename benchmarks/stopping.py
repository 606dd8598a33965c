"""How a subject with 100 sessions ends: how long it takes, who is left, what is told of a child that died.

    python -m benchmarks.stopping [--subject NAME]

Every measurement has a subject and children of its own. What is left is found by the tag in the command line
of every child, and killed.
"""

import argparse
import contextlib
import dataclasses
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.load import Load
from benchmarks.programs import TAG, Program, end_tagged, started
from benchmarks.scenarios import Figures
from benchmarks.stopping_client import Client
from benchmarks.subjects import Subject, installed, subjects
from benchmarks.tools import Tools, prepare

__all__ = ["KINDS", "stop"]

KINDS = {
    "polite": (),
    "staying": ("--stay-on-eof",),
    "stubborn": ("--stay-on-eof", "--ignore-sigterm"),
    "parents": ("--grandchild",),
}
"""What children do with the end of their input and with SIGTERM, and how they are told to: `polite` ones end
at EOF, `staying` ones at SIGTERM, `stubborn` ones at neither, `parents` are polite and have started a process
of their own, which reads nothing."""

_SESSIONS = 100
_EXIT_TIMEOUT = 30.0
# An exit is followed by the exits of those who notice it; a kill by the graces of whoever watches.
_AFTER_EXIT, _AFTER_KILL = 2.0, 10.0
_LOOK_INTERVAL = 0.02
_TOLD_TIMEOUT = 40.0


def stop(tools: Tools, subject: Subject, tag: str, *, sessions: int = _SESSIONS) -> Figures:
    """End a subject in every way, and let a child die within a call.

    Keys, for each kind of children in `KINDS` (`polite`, `staying`, `stubborn`, `parents`):

    - `term_KIND_s`: seconds from SIGTERM to the exit of the subject; None: it was there after 30 s;
    - `term_KIND_at_exit`: processes with the tag that were alive at that moment;
    - `term_KIND_left`: those that were alive 2 s later, after a SIGKILL for a subject that was still there;
    - `kill_KIND_left`: those that were alive 10 s after a SIGKILL of the subject;
    - `kill_KIND_s`: after how many seconds none of them was; None: some were left.

    And for a child that exits within a call:

    - `told_ms`: milliseconds from the call to its end; None: the client was told nothing within 40 s;
    - `told_status`: the status of HTTP; None: no answer;
    - `told_code`: the code of the JSON-RPC error; None: it was told in another way, or not at all;
    - `told_ok`: 1 if it was told as if all had gone well, else 0;
    - `next_status`, `next_right`: of the next call in the same session; right is 1 or 0.

    Args:
        tools: The generator opens the sessions.
        subject: Of the legacy era, or one with sessions at least.
        tag: In the command line of every child; begins with `programs.TAG`.
        sessions: How many there are.

    Raises:
        RuntimeError: The subject does not serve, or opens no sessions.
    """
    found: dict[str, float | None] = {}
    for kind, options in KINDS.items():
        chosen = _with_children(subject, tag, options)
        with _ending(tools, chosen, tag, sessions) as program:
            found |= {f"term_{kind}_{key}": value for key, value in _terminate(program, tag).items()}
        with _ending(tools, chosen, tag, sessions) as program:
            os.kill(program.pid, signal.SIGKILL)
            _wait_for_exit(program.pid)
            seconds, left = _wait_for_none(tag, _AFTER_KILL)
            found |= {f"kill_{kind}_s": seconds, f"kill_{kind}_left": float(left)}
    return {**found, **_crash(subject, tag)}


def _terminate(program: Program, tag: str) -> Figures:
    began = time.perf_counter()
    os.kill(program.pid, signal.SIGTERM)
    exited = _wait_for_exit(program.pid)
    seconds = time.perf_counter() - began
    at_exit = len(set(_tagged(tag)) - {program.pid})
    if not exited:
        os.kill(program.pid, signal.SIGKILL)
        _wait_for_exit(program.pid)
    _, left = _wait_for_none(tag, _AFTER_EXIT)
    return {"s": seconds if exited else None, "at_exit": float(at_exit), "left": float(left)}


def _crash(subject: Subject, tag: str) -> Figures:
    """Call a tool that ends the child, then call again."""
    with _served(subject) as program:
        client = Client(program.url, timeout=_TOLD_TIMEOUT)
        opened = client.open()
        if not opened.right:
            raise RuntimeError(f"no session: {opened.text}")
        told = client.call("crash", "")
        after = client.call("echo", "still there?")
    end_tagged(tag)
    print(f"  a child that dies within a call: {told}\n  the next call: {after}", file=sys.stderr)
    return {
        "told_ms": None if told.status is None and told.seconds >= _TOLD_TIMEOUT else told.seconds * 1000,
        "told_status": told.status,
        "told_code": told.code,
        "told_ok": float(told.right),
        "next_status": after.status,
        "next_right": float(after.right and "still there?" in after.text),
    }


def _with_children(subject: Subject, tag: str, options: tuple[str, ...]) -> Subject:
    """Return the subject with other children: their options stand behind the tag, wherever that is."""
    argv: list[str] = []
    for word in subject.argv:
        # Some subjects take the whole command of the child as one argument.
        argv += [word, *options] if word == tag else [word.replace(tag, " ".join((tag, *options)))]
    return dataclasses.replace(subject, argv=tuple(argv))


@contextlib.contextmanager
def _ending(tools: Tools, subject: Subject, tag: str, sessions: int) -> Iterator[Program]:
    """Start a subject with sessions that the block ends; kill what it leaves."""
    with _served(subject) as program:
        load = Load(tools=tools, subject=subject, program=program, seconds=1.0)
        with load.held(sessions):
            yield program
    end_tagged(tag)


@contextlib.contextmanager
def _served(subject: Subject) -> Iterator[Program]:
    """Start a subject of which nobody expects that it is still there when the block ends."""
    done = False
    try:
        with started(subject.argv, path=subject.path, environment=subject.environment) as program:
            yield program
            done = True
    except RuntimeError:
        if not done:
            raise


def _wait_for_exit(pid: int) -> bool:
    """Wait until a process has ended; who has started it reaps it. Whether it has, in time."""
    pidfd = os.pidfd_open(pid)
    try:
        return bool(select.select([pidfd], [], [], _EXIT_TIMEOUT)[0])
    finally:
        os.close(pidfd)


def _wait_for_none(tag: str, seconds: float) -> tuple[float | None, int]:
    """Wait until no process with the tag is alive: after how many seconds, and how many there are at last."""
    began = time.perf_counter()
    while left := len(_tagged(tag)):
        if time.perf_counter() - began > seconds:
            return None, left
        time.sleep(_LOOK_INTERVAL)
    return time.perf_counter() - began, 0


def _tagged(tag: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            if tag.encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
    return found


def main() -> int:
    """Measure one subject, or all that have sessions, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stopping", description=__doc__)
    parser.add_argument("--subject", default="stdio-broker")
    parser.add_argument("--sessions", type=int, default=_SESSIONS)
    options = parser.parse_args()
    tools, tag = prepare(), f"{TAG}{os.getpid()}"
    chosen, notes = installed([one for one in subjects(tools, tag) if one.name == options.subject])
    print(*tools.notes, *notes, sep="\n")
    try:
        for subject in chosen:
            figures = stop(tools, subject, tag, sessions=options.sessions)
            print(subject.name, *(f"  {key:24} {value}" for key, value in figures.items()), sep="\n")
    finally:
        end_tagged(tag)
    return 0


if __name__ == "__main__":
    sys.exit(main())
