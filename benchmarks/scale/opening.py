"""Opens many sessions as fast as it goes, or ends them; a process of its own, so that it delays nobody else.

    python -m benchmarks.scale.opening --url URL --count N --connections N
    python -m benchmarks.scale.opening --url URL --connections N --close < SESSIONS

It prints one JSON object when it is done. The sessions stay open: they need no connection.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

from benchmarks.scale.http import CallFailed, Connection, Endpoint
from benchmarks.tools import ROOT

__all__ = ["Opened", "Opening", "closing", "opening"]

_TIMEOUT = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What became of it.

    Args:
        sessions: The ids of those that are open, or were ended.
        began, ended: The first request and the last answer, by `time.monotonic`.
        took: Seconds that each took, in the order in which they were done.
        errors: How many failed.
    """

    sessions: Sequence[str]
    began: float
    ended: float
    took: Sequence[float]
    errors: int
    first_error: str

    @property
    def per_second(self) -> float:
        """How many a second."""
        return len(self.sessions) / (self.ended - self.began)


class Opening:
    """A run of this module, from its start until its result is taken. Use it as a context manager."""

    def __init__(self, url: str, connections: int, *options: str, given: str = "") -> None:
        command = [sys.executable, "-m", "benchmarks.scale.opening", "--url", url]
        command += ["--connections", str(connections), *options]
        self._given = given
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True, start_new_session=True
        )

    def result(self) -> Opened:
        """Wait for it, and return what became of it.

        Raises:
            RuntimeError: It has failed itself; it says why on stderr.
            subprocess.TimeoutExpired: It takes too long.
        """
        out, _ = self._process.communicate(self._given, timeout=_TIMEOUT)
        if self._process.returncode:
            raise RuntimeError(f"opening sessions ended with {self._process.returncode}")
        return Opened(**json.loads(out))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def opening(url: str, *, count: int, connections: int) -> Opening:
    """Start to open so many sessions."""
    return Opening(url, connections, "--count", str(count))


def closing(url: str, sessions: Sequence[str], *, connections: int) -> Opening:
    """Start to end these sessions, once the result is asked for."""
    return Opening(url, connections, "--close", given="\n".join(sessions))


# In the process of its own.


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--close", action="store_true", help="end the sessions that stand on stdin")
    options = parser.parse_args()
    endpoint = Endpoint.of(options.url)
    jobs: list[Callable[[Connection], str]]
    if options.close:
        jobs = [_closer(session) for session in sys.stdin.read().split()]
    else:
        jobs = [Connection.open_session] * options.count
    json.dump(_work(endpoint, jobs, options.connections), sys.stdout)


def _closer(session: str) -> Callable[[Connection], str]:
    def close(connection: Connection) -> str:
        connection.close_session(session)
        return session

    return close


def _work(
    endpoint: Endpoint, jobs: list[Callable[[Connection], str]], connections: int
) -> dict[str, list[str] | list[float] | float | str]:
    sessions: list[str] = []
    took: list[float] = []
    failed: list[str] = []
    jobs.reverse()  # taken from the end, which is atomic

    def worker() -> None:
        connection = Connection(endpoint)
        while jobs:
            try:
                job = jobs.pop()
            except IndexError:  # another worker was faster
                break
            began = time.monotonic()
            try:
                sessions.append(job(connection))
                took.append(time.monotonic() - began)
            except (CallFailed, OSError) as exc:
                failed.append(str(exc))
                connection.close()
                connection = Connection(endpoint)
        connection.close()

    began = time.monotonic()
    with ThreadPoolExecutor(connections) as pool:
        for done in [pool.submit(worker) for _ in range(connections)]:
            done.result()
    return {
        "sessions": sessions,
        "began": began,
        "ended": time.monotonic(),
        "took": took,
        "errors": len(failed),
        "first_error": failed[0] if failed else "",
    }


if __name__ == "__main__":
    main()
