"""A real broker in a process of its own, as a user starts it with `stdio-broker run` or `serve`."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.processes import descendants_of, wait_until

__all__ = ["BrokerProcess", "broker_command", "events_in", "running_broker", "serving_broker"]

_PROJECT = Path(__file__).parents[2]
_URL = re.compile(r"http://[^\s,]+")


class BrokerProcess:
    """A running broker.

    Attributes:
        process: The process itself.
        url: What the line says that the broker prints when it is ready: the endpoint of `run`; of `serve`
            the address, without a path.
    """

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self.url = ""
        self._stdout = output / "stdout"
        self._stderr = output / "stderr"
        self._expected_to_end = False

    @property
    def pid(self) -> int:
        """The process id of the broker."""
        return self.process.pid

    def stdout_text(self) -> str:
        """Return everything that the broker has printed."""
        return self._stdout.read_text(errors="replace")

    def stderr_text(self) -> str:
        """Return everything that the broker has logged."""
        return self._stderr.read_text(errors="replace")

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return what the broker has logged as JSON; only what has this name, if one is given."""
        return events_in(self.stderr_text(), name)

    async def wait_event(self, name: str, count: int = 1, timeout: float = 10.0) -> dict[str, Any]:
        """Wait until the broker has logged something so often; return the last of these."""
        await wait_until(
            lambda: len(self.events(name)) >= count, timeout, what=f"{name} in the log, {count} times"
        )
        return self.events(name)[count - 1]

    def descendants(self) -> set[int]:
        """Return the pids of the broker's children, theirs, and so on, zombies included."""
        return descendants_of(self.pid)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the broker, which from now on may end in any way."""
        self._expected_to_end = True
        self.process.send_signal(number)

    async def wait(self, timeout: float = 30.0) -> int:
        """Wait for the broker to end, without blocking the loop; return its exit code."""
        self._expected_to_end = True
        await wait_until(
            lambda: self.process.poll() is not None, timeout, what=f"end of the broker, process {self.pid}"
        )
        return self.process.returncode

    async def stop(self, timeout: float = 30.0) -> int:
        """Ask the broker to drain and end, with SIGTERM; return its exit code."""
        self.signal(signal.SIGTERM)
        return await self.wait(timeout)

    async def wait_ready(self, timeout: float) -> None:
        """Wait for the first line of the broker, and read the URL in it."""
        await wait_until(
            lambda: "\n" in self.stdout_text() or self.process.poll() is not None,
            timeout,
            what="first line of the broker",
        )
        match = _URL.search(self.stdout_text().partition("\n")[0])
        if match is None:
            raise AssertionError(
                f"expected a line with the URL of the broker, found {self.stdout_text()!r}, "
                f"exit code {self.process.returncode}"
            )
        self.url = match[0]

    async def leave(self) -> None:
        """End the broker if the test has not, and check that it ends as it should."""
        if self._expected_to_end:
            await self.wait()
            return
        if self.process.poll() is not None:
            raise AssertionError(f"the broker ended by itself, exit code {self.process.returncode}")
        exit_code = await self.stop()
        assert exit_code == 0, f"expected exit code 0 after SIGTERM, found {exit_code}"


@contextlib.asynccontextmanager
async def running_broker(
    *command: str,
    options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    start_timeout: float = 60.0,
) -> AsyncIterator[BrokerProcess]:
    """Run a broker in front of a command, on a free port, until the block is left.

    Leaving the block stops the broker with SIGTERM and expects exit code 0, unless the test has stopped or
    signalled it itself; then it only waits for the end. Every failure inside the block carries what the
    broker has logged.

    Args:
        command: The stdio MCP server to serve.
        options: Further options of `stdio-broker run`.
        env: Variables to add to the environment of the broker.
        start_timeout: Seconds until the broker must be ready.
    """
    arguments = ("run", "--port", "0", *options, "--", *command)
    async with _running(arguments, env, start_timeout) as broker:
        yield broker


@contextlib.asynccontextmanager
async def serving_broker(
    config: Path,
    *,
    options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    start_timeout: float = 60.0,
) -> AsyncIterator[BrokerProcess]:
    """Run a broker that serves what a configuration file says, until the block is left, as `running_broker`.

    Args:
        config: The file; its `http.port` should be 0.
        options: Further options of `stdio-broker serve`.
        env: Variables to add to the environment of the broker.
        start_timeout: Seconds until the broker must be ready.
    """
    async with _running(("serve", "--config", str(config), *options), env, start_timeout) as broker:
        yield broker


@contextlib.asynccontextmanager
async def _running(
    arguments: Sequence[str], env: Mapping[str, str] | None, start_timeout: float
) -> AsyncIterator[BrokerProcess]:
    with tempfile.TemporaryDirectory(prefix="broker-") as output:
        broker = BrokerProcess(_start(arguments, env, Path(output)), Path(output))
        try:
            await broker.wait_ready(start_timeout)
            yield broker
            await broker.leave()
        except BaseException as exc:
            exc.add_note(f"--- stderr of the broker ---\n{broker.stderr_text()}")
            with contextlib.suppress(AssertionError):
                await broker.stop(timeout=10.0)
            raise
        finally:
            if broker.process.poll() is None:
                broker.process.kill()
            broker.process.wait(timeout=10.0)


def broker_command(*arguments: str) -> list[str]:
    """Return how to run `stdio-broker` with these arguments, measured if we are."""
    return [sys.executable, *_interpreter_options(), *arguments]


def events_in(log: str, name: str | None = None) -> list[dict[str, Any]]:
    """Return what a broker has logged as JSON; only what has this name, if one is given.

    The last line may be half written.
    """
    events = [json.loads(line) for line in log.splitlines(keepends=True) if line.endswith("}\n")]
    return [event for event in events if name is None or event["event"] == name]


def _start(arguments: Sequence[str], env: Mapping[str, str] | None, output: Path) -> subprocess.Popen[bytes]:
    # Files instead of pipes: nobody has to read while the broker writes.
    with (output / "stdout").open("wb") as stdout, (output / "stderr").open("wb") as stderr:
        return subprocess.Popen(
            broker_command(*arguments),
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )


def _interpreter_options() -> list[str]:
    program = ["-m", "stdio_broker"]
    # Set by coverage in the process that it measures. The broker then writes a data file beside ours.
    if "COVERAGE_RUN" not in os.environ:
        return program
    return ["-m", "coverage", "run", f"--rcfile={_PROJECT / 'pyproject.toml'}", *program]
