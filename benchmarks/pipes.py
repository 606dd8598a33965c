"""The pipes alone: the benchmark's child called from Python without HTTP, which bounds a bridge in Python.

Blocking reads and writes and no event loop: all that a bridge does beyond this is its own cost. Every answer
is compared with that of its call. The figures have the keys of the scenarios `one` (one call in flight, all
on one CPU) and `many` (32 in flight, the next calls written together as answers come). CPU is that of this
process; the child's is not in it, as with every subject.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.programs import on_cpu
from benchmarks.scenarios import Figures
from benchmarks.tools import Tools

__all__ = ["PIPES", "measure"]

PIPES = "pipes alone"

_IN_FLIGHT = 32
_TEXT_BYTES = 32  # as much as the load generator sends
# Different calls, more than are ever in flight: an answer to another call is noticed.
_CALLS = 256
_READ_BYTES = 64 * 1024
_STOP_GRACE = 10.0
# How much longer than the measured time the child may take before it is killed, which ends every read.
_SPARE_TIME = 10.0
_INITIALIZE = (
    b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25",'
    b'"capabilities":{},"clientInfo":{"name":"pipes","version":"1"}}}\n'
)
_INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n'


@dataclass(frozen=True, slots=True)
class _Pipes:
    """Both pipes of a child, and its pid."""

    pid: int
    stdin: int
    stdout: int


@dataclass(frozen=True, slots=True)
class _Spent:
    """What some calls took: seconds of time and of CPU, and each of them, where that was measured."""

    calls: int
    seconds: float
    cpu_seconds: float
    latencies: tuple[float, ...] = ()


def measure(tools: Tools, tag: str, seconds: float) -> Figures:
    """Call the child for so long with one call in flight, and for as long with many.

    Raises:
        RuntimeError: It ended, hung, or gave an answer that is not the one to the call.
    """
    requests, answers = _messages()
    # Waking another CPU of a virtual machine costs tens of microseconds and would hide the software.
    cpu = 0 if sys.platform == "linux" else None
    with _started((*tools.child, "legacy", tag), 2.5 * seconds + _SPARE_TIME) as pipes:
        with on_cpu(pipes.pid, cpu), on_cpu(os.getpid(), cpu):
            _one(pipes, requests, answers, seconds / 4)
            one = _one(pipes, requests, answers, seconds)
        _many(pipes, requests, answers, seconds / 4)
        many = _many(pipes, requests, answers, seconds)
    ranked = sorted(one.latencies)
    return {
        "one_rps": one.calls / one.seconds,
        "one_p50_us": statistics.median(ranked) * 1e6,
        "one_p99_us": ranked[len(ranked) * 99 // 100] * 1e6,
        "one_cpu_us": one.cpu_seconds / one.calls * 1e6,
        "many_rps": many.calls / many.seconds,
        "many_cpu_us": many.cpu_seconds / many.calls * 1e6,
    }


def _messages() -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Return the calls and, in the same order, what the child answers to each, less the newline."""
    texts = [f"{number}-".ljust(_TEXT_BYTES, ".") for number in range(1, _CALLS + 1)]
    params = '{{"name":"echo","arguments":{{"text":"{}"}}}}'
    call = '{{"jsonrpc":"2.0","id":{},"method":"tools/call","params":' + params + "}}\n"
    answer = '{{"jsonrpc":"2.0","id":{},"result":{{"content":[{{"type":"text","text":"{}"}}]}}}}'
    return (
        tuple(call.format(number, text).encode() for number, text in enumerate(texts, 1)),
        tuple(answer.format(number, text).encode() for number, text in enumerate(texts, 1)),
    )


def _one(pipes: _Pipes, requests: tuple[bytes, ...], answers: tuple[bytes, ...], seconds: float) -> _Spent:
    latencies: list[float] = []
    cpu_began, began = time.process_time(), time.perf_counter()
    asked, ends = began, began + seconds
    while asked < ends:
        number = len(latencies) % _CALLS
        os.write(pipes.stdin, requests[number])
        found = os.read(pipes.stdout, _READ_BYTES)
        if found[:-1] != answers[number]:
            raise _unexpected(answers[number], found)
        answered = time.perf_counter()
        latencies.append(answered - asked)
        asked = answered
    return _Spent(len(latencies), asked - began, time.process_time() - cpu_began, tuple(latencies))


def _many(pipes: _Pipes, requests: tuple[bytes, ...], answers: tuple[bytes, ...], seconds: float) -> _Spent:
    cpu_began, began = time.process_time(), time.perf_counter()
    ends = began + seconds
    sent = _IN_FLIGHT
    os.write(pipes.stdin, b"".join(requests[:sent]))
    done, rest = 0, b""
    while done < sent:
        data = os.read(pipes.stdout, _READ_BYTES)
        if not data:
            raise _unexpected(answers[done % _CALLS], b"")
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:  # in the order of the calls, as our child has one thread
            if line != answers[done % _CALLS]:
                raise _unexpected(answers[done % _CALLS], line)
            done += 1
        if lines and time.perf_counter() < ends:
            os.write(pipes.stdin, b"".join([requests[n % _CALLS] for n in range(sent, sent + len(lines))]))
            sent += len(lines)
    return _Spent(done, time.perf_counter() - began, time.process_time() - cpu_began)


def _unexpected(expected: bytes, found: bytes) -> RuntimeError:
    return RuntimeError(f"{PIPES}: expected {expected[:200]!r}, found {found[:200]!r}")


@contextlib.contextmanager
def _started(argv: tuple[str, ...], timeout: float) -> Iterator[_Pipes]:
    """Start the child and initialize it; kill it when the timeout falls due, end it when the block ends."""
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
    )
    assert process.stdin
    assert process.stdout
    # A read is not bounded otherwise, and a selector would be the cost that is not to be in here.
    watchdog = threading.Timer(timeout, process.kill)
    watchdog.start()
    try:
        pipes = _Pipes(process.pid, process.stdin.fileno(), process.stdout.fileno())
        os.write(pipes.stdin, _INITIALIZE)
        answer = os.read(pipes.stdout, _READ_BYTES)
        if b'"result"' not in answer:
            raise _unexpected(b"a result of initialize", answer)
        os.write(pipes.stdin, _INITIALIZED)
        yield pipes
    finally:
        watchdog.cancel()
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_GRACE)
        process.kill()
        process.wait()
        process.stdout.close()
