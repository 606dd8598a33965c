"""Processes that the benchmark starts: their start, what the kernel says of them, their end.

Every process gets a session of its own, so that Ctrl-C reaches the benchmark alone, which then ends each
of them by its pid. What the subjects' children leave behind is found by a tag in their command line; what
else is left in a subject's session ends with it. Readings come from /proc; elsewhere they are None and their
columns stay empty.
"""

import contextlib
import http.client
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.tools import ROOT

__all__ = ["TAG", "Program", "end_tagged", "fds", "on_cpu", "pss_kb", "read_line", "rss_kb", "started"]

TAG = "bench-tag-"
"""How the tag begins that the command line of every child holds."""

# Some peers import for ten seconds, longer while the machine is busy.
_READY_TIMEOUT = 60.0
_INITIALIZE_TIMEOUT = 10.0
_STOP_GRACE = 10.0
_EXIT_GRACE = 0.5
# How long children may outlive their subject before they count as left behind: they end when their pipes do.
_CHILD_GRACE = 2.0
_POLL_INTERVAL = 0.05
_ANSWER_MAX_BYTES = 64 * 1024
_PRINTED_SHOWN_BYTES = 2000
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
def started(
    argv: tuple[str, ...], *, path: str | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[Program]:
    """Start a subject and wait until it serves; end it when the block ends.

    Args:
        argv: Its command.
        path: Where it serves MCP, if it does not print its URL: then `{port}` in the argv becomes a free
            port, and it serves once it has answered `initialize`.
        environment: What it gets beside ours.

    Raises:
        RuntimeError: It did not serve in time, or ended before the block; the message holds the end of what
            it printed.
    """
    port = None if path is None else _free_port()
    if port is not None:
        argv = tuple(word.replace("{port}", str(port)) for word in argv)
    # A peer may write files where it is started.
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            process = subprocess.Popen(
                argv,
                cwd=ROOT if path is None else folder,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if path is None else printed,
                stderr=printed,
                start_new_session=True,
            )
        except OSError as exc:
            raise RuntimeError(f"{_shown(argv)} could not be started: {exc.strerror}") from exc
        try:
            url = _printed_url(process) if path is None or port is None else _polled_url(process, port, path)
            if url is None:
                raise RuntimeError(f"{_shown(argv)} {_fate(process)}: {_tail(printed)}")
            yield Program(url=url, pid=process.pid)
            if process.poll() is not None:
                raise RuntimeError(f"{_shown(argv)} {_fate(process)}: {_tail(printed)}")
        finally:
            _end(process)


def _shown(argv: tuple[str, ...]) -> str:
    return " ".join([Path(argv[0]).name, *argv[1:4]])


def _fate(process: subprocess.Popen[bytes]) -> str:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_EXIT_GRACE)  # its output has ended a moment before
    status = process.returncode
    return f"did not serve in {_READY_TIMEOUT:.0f} s" if status is None else f"ended with {status}"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    assert isinstance(port, int)
    return port


def _printed_url(process: subprocess.Popen[bytes]) -> str | None:
    assert process.stdout
    words = read_line(process.stdout, _READY_TIMEOUT).split()
    return next((word for word in words if word.startswith("http://")), None)


def _polled_url(process: subprocess.Popen[bytes], port: int, path: str) -> str | None:
    """Wait until a subject that prints nothing useful answers; there is nothing but asking it."""
    deadline = time.monotonic() + _READY_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if _answers_initialize(port, path):
                return f"http://127.0.0.1:{port}{path}"
        time.sleep(_POLL_INTERVAL)
    return None


def _answers_initialize(port: int, path: str) -> bool:
    """Open a session and close it again, so that the first one measured is not the first of all."""
    client = {"name": "ready", "version": "1"}
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client}
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", port, timeout=_INITIALIZE_TIMEOUT)
    ) as connection:
        connection.request("POST", path, json.dumps(message), headers)
        answer = connection.getresponse()
        session = answer.getheader("mcp-session-id")
        answer.read(_ANSWER_MAX_BYTES)
        if session:
            connection.request("DELETE", path, headers={**headers, "mcp-session-id": session})
            connection.getresponse().read(_ANSWER_MAX_BYTES)
    return answer.status == http.HTTPStatus.OK


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


def _tail(printed: IO[bytes]) -> str:
    printed.seek(max(0, printed.seek(0, os.SEEK_END) - _PRINTED_SHOWN_BYTES))
    return printed.read().decode(errors="replace")


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
        _end_helpers(process.pid)


def _end_helpers(session: int) -> None:
    """Kill what is left in the session of a subject, but its children: `end_tagged` counts those.

    The kernel gives the number of a session to nobody else as long as somebody is in it.
    """
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _parent, _group, found = entry.read_text().rpartition(")")[2].split()[:4]
            if int(found) == session and state != "Z" and not _holds(entry.with_name("cmdline"), TAG):
                os.kill(int(entry.parent.name), signal.SIGKILL)


def end_tagged(tag: str) -> int:
    """Kill the processes whose command line holds the tag; how many there were after a short grace."""
    deadline = time.monotonic() + _CHILD_GRACE
    while (left := _tagged(tag)) and time.monotonic() < deadline:
        time.sleep(_POLL_INTERVAL)
    for pid in left:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    return len(left)


def _tagged(tag: str) -> list[int]:
    return [int(entry.parent.name) for entry in Path("/proc").glob("[0-9]*/cmdline") if _holds(entry, tag)]


def _holds(command_line: Path, tag: str) -> bool:
    # Whoever is dead has an empty one, or none.
    with contextlib.suppress(OSError):
        return tag.encode() in command_line.read_bytes()
    return False


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
