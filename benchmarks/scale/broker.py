"""The broker of the scale benchmark: its start, what the kernel says of it, its end by SIGTERM.

Readings are of the broker's own process; its children and the warden are not counted with it. CPU time comes
from its clock (clock_getcpuclockid(3)), which counts nanoseconds where /proc counts ticks of 10 ms.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.programs import end_tagged, fds, pss_kb, read_line, rss_kb
from benchmarks.scale.http import Endpoint
from benchmarks.tools import ROOT, Tools

__all__ = ["Broker", "Ended", "Reading", "broker", "raise_descriptor_limit"]

_READY_TIMEOUT = 30.0
_STOP_TIMEOUT = 60.0
# The warden ends when the broker has, and what it ends is reaped by init.
_AFTER_STOP = 2.0
_LOOK = 0.02
# Each child has three pipes and a pidfd, each client of ours a connection.
_FDS_PER_SESSION = 5
_SPARE_FDS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the broker has taken of the machine; None where the system does not tell."""

    at: float
    cpu_seconds: float | None
    waited_seconds: float | None  # its main thread, for a CPU that others had
    rss_kb: float | None
    pss_kb: float | None
    fds: float | None
    threads: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How it went down.

    Args:
        seconds: From SIGTERM to the exit of the broker.
        left: Processes of it that were alive 2 s later.
    """

    seconds: float
    exit_code: int
    left: int


class Broker:
    """One running broker."""

    def __init__(self, process: "subprocess.Popen[bytes]", url: str, tag: str) -> None:
        self.url = url
        self.endpoint = Endpoint.of(url)
        self._process = process
        self._tag = tag

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def read(self) -> Reading:
        """Look at it now."""
        pid = self.pid
        return Reading(
            at=time.monotonic(),
            cpu_seconds=_cpu_seconds(pid),
            waited_seconds=_waited_seconds(pid),
            rss_kb=rss_kb(pid),
            pss_kb=pss_kb(pid),
            fds=fds(pid),
            threads=_threads(pid),
        )

    def end(self) -> Ended:
        """Send SIGTERM, wait until it has ended, and see what is left."""
        family = _descendants(self.pid)
        began = time.monotonic()
        watchdog = threading.Timer(_STOP_TIMEOUT, self._process.kill)
        watchdog.start()
        self._process.terminate()
        exit_code = self._process.wait()  # without a time-out, as with one it looks every 50 ms
        seconds = time.monotonic() - began
        watchdog.cancel()
        deadline = time.monotonic() + _AFTER_STOP
        while (left := _alive(family)) and time.monotonic() < deadline:
            time.sleep(_LOOK)
        return Ended(seconds=seconds, exit_code=exit_code, left=max(left, end_tagged(self._tag)))


@contextlib.contextmanager
def broker(tools: Tools, tag: str, *, max_sessions: int) -> Iterator[Broker]:
    """Start a broker for the benchmark's child; kill it when the block ends, if it still runs.

    Raises:
        RuntimeError: It printed no URL in time, or has ended by itself; the message holds its stderr's end.
    """
    command = [sys.executable, "-m", "stdio_broker", "run", "--port", "0", "--log-level", "warning"]
    command += ["--max-sessions", str(max_sessions), "--", *tools.child, "legacy", tag]
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            command,
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
                raise RuntimeError(f"the broker printed no URL: {_tail(stderr)}")
            yield Broker(process, urls[0], tag)
            if said := _tail(stderr):
                print(f"the broker said: {said}", file=sys.stderr)
        finally:
            process.kill()
            process.communicate()
            end_tagged(tag)


def _tail(stderr: IO[bytes]) -> str:
    stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - 2000))
    return stderr.read().decode(errors="replace").strip()


def raise_descriptor_limit(sessions: int) -> str | None:
    """Raise our limit on open files, which the broker inherits, as far as it goes.

    Returns:
        What is wrong, if that is not enough for so many sessions.
    """
    if sys.platform == "win32":  # for the type checker: there is no module `resource`
        return None
    import resource  # noqa: PLC0415

    needed = _FDS_PER_SESSION * sessions + _SPARE_FDS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        fitting = (hard - _SPARE_FDS) // _FDS_PER_SESSION
        return (
            f"{sessions} sessions: expected a hard limit of {needed} open files or more (ulimit -Hn), found "
            f"{hard}; raise it, or measure with --sessions {max(fitting, 0)}"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return None


def _cpu_seconds(pid: int) -> float | None:
    if sys.platform != "linux":
        return None
    # The number that clock_getcpuclockid(3) makes of a pid; the kernel's CPUCLOCK_SCHED is 2.
    return time.clock_gettime((~pid << 3) | 2)


def _waited_seconds(pid: int) -> float | None:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    return None


def _threads(pid: int) -> float | None:
    with contextlib.suppress(OSError):
        return float(sum(1 for _ in Path(f"/proc/{pid}/task").iterdir()))
    return None


def _descendants(pid: int) -> set[tuple[int, str]]:
    """Return every process below one, each with its start, which tells it from a later one of its number."""
    parents = {child: found for child, _, *found in _processes()}
    family: set[int] = {pid}
    grown = True
    while grown:
        more = {child for child, (parent, _) in parents.items() if int(parent) in family} - family
        family |= more
        grown = bool(more)
    return {(child, parents[child][1]) for child in family - {pid}}


def _alive(family: set[tuple[int, str]]) -> int:
    return len({(pid, start) for pid, state, _, start in _processes() if state != "Z"} & family)


def _processes() -> Iterator[tuple[int, str, str, str]]:
    """Yield pid, state, parent and start of every process; of none where there is no /proc."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name in parentheses may hold anything: proc_pid_stat(5).
            fields = entry.read_text().rpartition(")")[2].split()
            yield int(entry.parent.name), fields[0], fields[1], fields[19]
