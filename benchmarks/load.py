"""Runs the load generator and reads what it found."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.programs import Program, read_line
from benchmarks.subjects import Subject
from benchmarks.tools import Tools

__all__ = ["Load", "Outcome"]

# Beside the measured time: opening the sessions, the last answers, closing.
_SPARE_TIME = 60.0
_HOLD_TIMEOUT = 60.0
# The generator's own bound. What runs beside something else is ended before.
_LONGEST = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run of the generator measured.

    Args:
        calls: Right answers (whole cycles in cycles mode) within the measured time.
        bytes_per_second: Of the texts: a large result or argument, or a small text both ways.
        errors: Answers that failed or did not come.
        wrong: Answers with a foreign id or foreign content.
        cpu_us: CPU time of the subject's own process per call; None where it cannot be read.
    """

    calls: int
    rps: float
    bytes_per_second: float
    p50_us: float
    p99_us: float
    max_us: float
    errors: int
    wrong: int
    cpu_us: float | None
    first_error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The generator, aimed at one running subject.

    Args:
        seconds: How long each run measures, after a warm-up of a quarter of it.
        failures: What a scenario could not measure while it could measure other things, by the figure's key.
    """

    tools: Tools
    subject: Subject
    program: Program
    seconds: float
    failures: dict[str, str] = field(default_factory=dict)

    def calls(
        self,
        *,
        connections: int,
        sessions: int = 1,
        cpu: int | None = None,
        result_bytes: int = 0,
        argument_bytes: int = 0,
        count: int | None = None,
        every_us: int | None = None,
        seconds: float | None = None,
        timeout: float | None = None,
        give_up: int | None = None,
    ) -> Outcome:
        """Call a tool over keep-alive connections, one call in flight on each.

        Args:
            connections: How many, spread over the sessions.
            sessions: How many, at most as many as connections.
            cpu: Where to keep the generator; None: anywhere.
            result_bytes: Ask for results with a text of so many bytes; 0: echo a small text.
            argument_bytes: Send a text of so many bytes, and have its digest answered.
            count: Measure no more than so many calls, from the first one on, without a warm-up.
            every_us: A call falls due so often, whatever became of those before; None: one after the other.
            seconds: How long to measure instead of `Load.seconds`.
            timeout: Seconds after which an answer has not come; None: the generator's own 30.
            give_up: End after so many errors; None: never.
        """
        options = {
            "--cpu": cpu,
            "--result-bytes": result_bytes or None,
            "--argument-bytes": argument_bytes or None,
            "--count": count,
            "--every-us": every_us,
            "--timeout": timeout,
            "--give-up": give_up,
        }
        words = ["--connections", str(connections), "--sessions", str(sessions)]
        for name, value in options.items():
            words += [] if value is None else [name, str(value)]
        return self._run("calls", *words, seconds=seconds, warmup=count is None)

    def cycles(self, *, connections: int) -> Outcome:
        """Open a session, call once, DELETE it; over and over, on each connection."""
        return self._run("cycles", "--connections", str(connections))

    @contextlib.contextmanager
    def held(self, sessions: int) -> Iterator[None]:
        """Keep sessions open and idle, each after one call and without a connection, while the block runs.

        Raises:
            RuntimeError: They could not be opened.
        """
        options = ("--sessions", str(sessions), "--seconds", str(_HOLD_TIMEOUT))
        with self._beside([*self._argv("hold"), *options]) as process:
            yield
            process.communicate(timeout=_SPARE_TIME)

    @contextlib.contextmanager
    def streaming(
        self, found: list[Outcome], *, result_bytes: int = 0, argument_bytes: int = 0
    ) -> Iterator[None]:
        """Move one large message after the other while the block runs, in a session of its own.

        Args:
            found: Gets what was measured once the block has ended.
            result_bytes: As for `calls`.
            argument_bytes: As for `calls`; only one of the two may be given.

        Raises:
            RuntimeError: Its session could not be opened.
        """
        name, size = ("result", result_bytes) if result_bytes else ("argument", argument_bytes)
        options = ("--until-eof", "--seconds", str(_LONGEST), "--give-up", "1", f"--{name}-bytes", str(size))
        with self._beside([*self._argv("calls"), *options]) as process:
            yield
            found.append(_outcome(process.communicate(timeout=_SPARE_TIME)[0]))

    @contextlib.contextmanager
    def _beside(self, argv: list[str]) -> Iterator["subprocess.Popen[bytes]"]:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout
        try:
            # One line when it is ready, which says for what.
            if not read_line(process.stdout, _HOLD_TIMEOUT).startswith("{"):
                process.kill()
                raise RuntimeError(process.communicate()[1].decode(errors="replace"))
            yield process
        finally:
            process.kill()
            process.communicate()

    def _argv(self, mode: str) -> list[str]:
        argv = [*self.tools.load, "--mode", mode, "--era", self.subject.era]
        argv += ["--url", self.program.url, "--pid", str(self.program.pid)]
        return argv if self.subject.constant is None else [*argv, "--constant", self.subject.constant]

    def _run(self, mode: str, *options: str, seconds: float | None = None, warmup: bool = True) -> Outcome:
        seconds = self.seconds if seconds is None else seconds
        times = ("--seconds", str(seconds), "--warmup", str(seconds / 4 if warmup else 0))
        process = subprocess.Popen(
            [*self._argv(mode), *times, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            stdout, stderr = process.communicate(timeout=seconds + _SPARE_TIME)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            raise RuntimeError(f"{self.subject.name}: {stderr.decode(errors='replace').strip()}")
        return _outcome(stdout)


def _outcome(line: bytes) -> Outcome:
    found = json.loads(line)
    calls, cpu_seconds = int(found["calls"]), found["cpu_seconds"]
    return Outcome(
        calls=calls,
        rps=float(found["rps"]),
        bytes_per_second=float(found["bytes_per_second"]),
        p50_us=float(found["p50_us"]),
        p99_us=float(found["p99_us"]),
        max_us=float(found["max_us"]),
        errors=int(found["errors"]),
        wrong=int(found["wrong"]),
        cpu_us=float(cpu_seconds) * 1e6 / calls if cpu_seconds is not None and calls else None,
        first_error=str(found["first_error"]),
    )
