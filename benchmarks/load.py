"""Runs the load generator and reads what it found."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.programs import Program, read_line
from benchmarks.subjects import Subject
from benchmarks.tools import Tools

__all__ = ["Load", "Outcome"]

# Beside the measured time: opening the sessions, the last answers, closing.
_SPARE_TIME = 60.0
_HOLD_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run of the generator measured.

    Args:
        calls: Right answers (whole cycles in cycles mode) within the measured time.
        errors: Answers that failed or did not come.
        wrong: Answers with a foreign id or foreign content.
        cpu_us: CPU time of the subject's own process per call; None where it cannot be read.
    """

    calls: int
    rps: float
    p50_us: float
    p99_us: float
    errors: int
    wrong: int
    cpu_us: float | None
    first_error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The generator, aimed at one running subject.

    Args:
        seconds: How long each run measures, after a warm-up of a quarter of it.
        cpu: Where to keep the generator; None: anywhere.
    """

    tools: Tools
    subject: Subject
    program: Program
    seconds: float

    def calls(self, *, connections: int, sessions: int = 1, cpu: int | None = None) -> Outcome:
        """Call `echo` over keep-alive connections, one call in flight on each."""
        pin = () if cpu is None else ("--cpu", str(cpu))
        return self._run("calls", "--connections", str(connections), "--sessions", str(sessions), *pin)

    def cycles(self, *, connections: int) -> Outcome:
        """Open a session, call once, DELETE it; over and over, on each connection."""
        return self._run("cycles", "--connections", str(connections))

    @contextlib.contextmanager
    def held(self, sessions: int) -> Iterator[None]:
        """Keep sessions open and idle, each after one call and without a connection, while the block runs.

        Raises:
            RuntimeError: They could not be opened.
        """
        argv = [*self._argv("hold"), "--sessions", str(sessions), "--seconds", str(_HOLD_TIMEOUT)]
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdin
        assert process.stdout
        try:
            if not read_line(process.stdout, _HOLD_TIMEOUT).startswith('{"held"'):
                process.kill()
                raise RuntimeError(process.communicate()[1].decode(errors="replace"))
            yield
            process.communicate(timeout=_SPARE_TIME)
        finally:
            process.kill()
            process.communicate()

    def _argv(self, mode: str) -> list[str]:
        argv = [*self.tools.load, "--mode", mode, "--era", self.subject.era]
        argv += ["--url", self.program.url, "--pid", str(self.program.pid)]
        return argv if self.subject.constant is None else [*argv, "--constant", self.subject.constant]

    def _run(self, mode: str, *options: str) -> Outcome:
        times = ("--seconds", str(self.seconds), "--warmup", str(self.seconds / 4))
        process = subprocess.Popen(
            [*self._argv(mode), *times, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            stdout, stderr = process.communicate(timeout=self.seconds + _SPARE_TIME)
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
        p50_us=float(found["p50_us"]),
        p99_us=float(found["p99_us"]),
        errors=int(found["errors"]),
        wrong=int(found["wrong"]),
        cpu_us=float(cpu_seconds) * 1e6 / calls if cpu_seconds is not None and calls else None,
        first_error=str(found["first_error"]),
    )
