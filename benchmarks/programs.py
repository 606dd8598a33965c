"""Processes that the benchmark starts: their start, what the kernel says of them, their end.

Every process gets a session of its own, so that Ctrl-C reaches the benchmark alone, which then ends each
of them by its pid. What the subjects' children leave behind is found by a tag in their command line.
Readings come from /proc; elsewhere they are None and their columns stay empty.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.tools import ROOT

__all__ = ["Program", "end_tagged", "fds", "on_cpu", "pss_kb", "read_line", "rss_kb", "started"]

_READY_TIMEOUT = 30.0
_STOP_GRACE = 10.0
_STDERR_SHOWN_BYTES = 2000
_LINE_MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A subject that serves.

    Args:
        url: Its MCP endpoint.
        pid: The process itself; its children are not counted with it.
    """

    url: str
    pid: int


@contextlib.contextmanager
def started(argv: tuple[str, ...]) -> Iterator[Program]:
    """Start a subject and wait until it prints its URL; end it when the block ends.

    Raises:
        RuntimeError: It printed no URL in time; the message holds the end of its stderr.
    """
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            argv,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            assert process.stdout
            words = read_line(process.stdout, _READY_TIMEOUT).split()
            urls = [word for word in words if word.startswith("http://")]
            if not urls:
                raise RuntimeError(f"{argv[:4]} printed no URL: {_tail(stderr)}")
            yield Program(url=urls[0], pid=process.pid)
            if process.poll() is not None:
                raise RuntimeError(f"{argv[:4]} ended with {process.returncode}: {_tail(stderr)}")
        finally:
            _end(process)


def read_line(stream: IO[bytes], timeout: float) -> str:
    """Read what a process prints up to its first newline; less where it ends or the timeout falls due."""
    deadline = time.monotonic() + timeout
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while b"\n" not in line and len(line) < _LINE_MAX_BYTES:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                break
            data = os.read(stream.fileno(), 4096)
            if not data:
                break
            line += data
    return line.decode(errors="replace")


def _tail(stderr: IO[bytes]) -> str:
    stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - _STDERR_SHOWN_BYTES))
    return stderr.read().decode(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdout:
        process.stdout.close()
    try:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_GRACE)
    finally:
        # Also when a second Ctrl-C cuts the wait short.
        process.kill()
        process.wait()


def end_tagged(tag: str) -> int:
    """Kill the processes whose command line holds the tag; how many there were."""
    left = 0
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if tag.encode() in entry.read_bytes():
                os.kill(int(entry.parent.name), signal.SIGKILL)
                left += 1
    return left


@contextlib.contextmanager
def on_cpu(pid: int, cpu: int | None) -> Iterator[None]:
    """Keep every thread of a process, and what it starts meanwhile, on one CPU; None: leave it alone."""
    if cpu is None or sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(pid)
    _set_affinity(pid, {cpu})
    try:
        yield
    finally:
        _set_affinity(pid, before)


def _set_affinity(pid: int, cpus: set[int]) -> None:
    if sys.platform == "linux":
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), cpus)


def pss_kb(pid: int) -> float | None:
    """Return the proportional set size: what the process costs the machine, with its share of libraries."""
    return _smaps(pid, "Pss:")


def rss_kb(pid: int) -> float | None:
    """Return the resident set size: unlike the PSS it does not fall when children share a library."""
    return _smaps(pid, "Rss:")


def _smaps(pid: int, field: str) -> float | None:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(field):
                return float(line.split()[1])
    return None


def fds(pid: int) -> float | None:
    """Return how many file descriptors a process has open."""
    with contextlib.suppress(OSError):
        return float(sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()))
    return None
