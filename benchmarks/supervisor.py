"""How fast children are started, and whether the event loop notices: our `start` beside a loop of Popen.

    python -m benchmarks.supervisor KIND

Each kind is a process of its own, which lives through all rounds and works when it is asked to: so they take
turns, and none has the other's memory. What is started is `cat`, the cheapest program that answers: the more
a program does itself, the less our part of its start counts.
"""

import asyncio
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

import uvloop

from benchmarks.programs import rss_kb
from benchmarks.report import Rounds
from benchmarks.scenarios import Column, Figures, Scenario
from stdio_broker.supervisor import Child, Config, raise_descriptor_limit, start

__all__ = ["SUPERVISOR", "measure", "ratios"]

POPEN = "Popen, 3 pipes"
COMMAND = ("cat",)
# What holds a child together costs something, so each level stands for itself.
OURS: Mapping[str, Config] = {
    "start, group, no warden": Config(cmd=COMMAND, containment="group", warden=False),
    "start, group": Config(cmd=COMMAND, containment="group"),
    "start, as configured": Config(cmd=COMMAND),
}

SUPERVISOR = Scenario(
    name="supervisor",
    title="starting children, all at the same time; one that is started with nothing else to do",
    columns=(
        Column(key="starts", title="starts/s"),
        Column(key="gap_ms", title="worst gap ms", places=1),
        Column(key="hung_ms", title="while an exec hangs ms", places=1),
        Column(key="idle_ms", title="with nothing to do ms", places=1),
        Column(key="alone_ms", title="one start ms", places=1),
        Column(key="child_kb", title="KB/child", places=1),
    ),
    run=lambda _: {},  # it has nothing to do with a server
)

_AT_ONCE = 50
# Not all at once: what a start needs for a moment is no child's memory.
_AT_A_TIME = 10
_HELD = 200
_HEARTBEAT = 0.002
_HANG = 0.4

# A file under a write lease cannot be executed until its holder gives it up: fcntl(2), "Leases".
_LEASE_HOLDER = """
import fcntl, os, signal, sys, time
file = os.open(sys.argv[1], os.O_RDONLY)
signal.signal(signal.SIGIO, lambda *_: wanted.append(True))
wanted = []
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("ready", flush=True)
while not wanted:
    time.sleep(0.001)
time.sleep(float(sys.argv[2]))
"""


def measure(rounds: int) -> Rounds:
    """Measure every kind in every round, in alternating order; the first round is not counted.

    Raises:
        RuntimeError: A kind has failed; what it says stands on stderr.
    """
    found: dict[str, list[Figures]] = {kind: [] for kind in (POPEN, *OURS)}
    with contextlib.ExitStack() as ends:
        workers = {kind: ends.enter_context(_worker(kind)) for kind in found}
        for number in range(rounds + 1):
            print(f"round {number} of {rounds}: supervisor", file=sys.stderr)
            for kind in found if number % 2 else reversed(found):
                figures = _ask(workers[kind])
                if number:
                    found[kind].append(figures)
    return found


def ratios(rounds: Rounds) -> str:
    """Lay out the ratio of each kind to Popen, taken round by round: median, lowest and highest."""
    lines = [
        "Starts per second beside Popen (median of the rounds, lowest and highest), wanted: at least 0.8"
    ]
    for kind in OURS:
        values = [
            (one["starts"] or 0) / (other["starts"] or 1)
            for one, other in zip(rounds[kind], rounds[POPEN], strict=True)
        ]
        lines.append(f"{kind}: {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})")
    return "\n".join(lines)


@contextlib.contextmanager
def _worker(kind: str) -> Iterator["subprocess.Popen[str]"]:
    command = (sys.executable, "-m", "benchmarks.supervisor", kind)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        yield worker  # which ends at the end of its stdin


def _ask(worker: "subprocess.Popen[str]") -> Figures:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("round\n")
    worker.stdin.flush()
    if not (answer := worker.stdout.readline()):
        raise RuntimeError("the benchmark of the supervisor has failed")
    figures: Figures = json.loads(answer)
    return figures


# In the process of one kind.


def main(kind: str) -> None:
    """Measure one round for every line on stdin."""
    raise_descriptor_limit()
    config = OURS.get(kind)
    if config is None:
        for _ in sys.stdin:
            _tell({"starts": _popen()})
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        memory: float | None = None
        for _ in sys.stdin:
            # Once, before anything has been given back that it could use.
            memory = memory or runner.run(_memory(config))
            _tell({**runner.run(_round(config)), "child_kb": memory})


def _tell(figures: Mapping[str, float | None]) -> None:
    print(json.dumps(figures), flush=True)


def _popen() -> float:
    pipe = subprocess.PIPE
    began = time.perf_counter()
    processes = [
        subprocess.Popen(COMMAND, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
        for _ in range(_AT_ONCE)
    ]
    took = time.perf_counter() - began
    for process in processes:
        process.communicate()
    return _AT_ONCE / took


async def _round(config: Config) -> Figures:
    async with _Heartbeat() as idle:
        await asyncio.sleep(_HANG)
    async with _Heartbeat() as busy:
        began = time.perf_counter()
        children = await asyncio.gather(*(start(config) for _ in range(_AT_ONCE)))
        took = time.perf_counter() - began
    await _stop(children)
    began = time.perf_counter()
    children = [await start(config)]
    alone = time.perf_counter() - began
    await _stop(children)
    return {
        "starts": _AT_ONCE / took,
        "gap_ms": busy.worst * 1000,
        "idle_ms": idle.worst * 1000,
        "hung_ms": await _while_an_exec_hangs(config),
        "alone_ms": alone * 1000,
    }


async def _while_an_exec_hangs(config: Config) -> float | None:
    if sys.platform != "linux":
        return None
    with _program_that_hangs() as program:
        hanging = Config(cmd=[program], containment=config.containment, warden=config.warden)
        async with _Heartbeat() as heartbeat:
            began = time.perf_counter()
            child = await start(hanging)
            assert time.perf_counter() - began > _HANG / 2, "it did not hang"
        await _stop([child])
    return heartbeat.worst * 1000


@contextlib.contextmanager
def _program_that_hangs() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        program = shutil.copy(shutil.which(COMMAND[0]) or "", folder)
        command = (sys.executable, "-c", _LEASE_HOLDER, program, str(_HANG))
        with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            yield program


async def _memory(config: Config) -> float | None:
    """Return what each child costs of our memory, in KB, once there have been some."""
    children: list[Child] = []

    async def more(amount: int) -> float:
        for _ in range(amount // _AT_A_TIME):
            children.extend(await asyncio.gather(*(start(config) for _ in range(_AT_A_TIME))))
        return rss_kb(os.getpid()) or 0

    before = await more(_HELD // 2)
    after = await more(_HELD)
    await _stop(children)
    return (after - before) / _HELD if before else None


async def _stop(children: Sequence[Child]) -> None:
    await asyncio.gather(*(child.stop() for child in children))


class _Heartbeat:
    """A task that wants to run every 2 ms, and by how much it was late at most, in seconds."""

    def __init__(self) -> None:
        self.worst = 0.0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._beat())
        await asyncio.sleep(2 * _HEARTBEAT)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _beat(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(_HEARTBEAT)
            now = time.perf_counter()
            self.worst = max(self.worst, now - last - _HEARTBEAT)
            last = now


if __name__ == "__main__":
    main(sys.argv[1])
