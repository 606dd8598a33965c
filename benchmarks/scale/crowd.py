"""The sessions of one broker that are open, how they were opened and called, and how it went down."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.scale.broker import Broker, Ended, Reading
from benchmarks.scale.load import Calls, OpenLoop
from benchmarks.scale.numbers import percentile
from benchmarks.scale.opening import opening
from benchmarks.scale.result import Series

__all__ = ["RATE", "Crowd", "Load", "cpu_us", "latencies", "milliseconds"]

RATE = 1000.0

_CONNECTIONS = 32
# The first calls cost what no later one pays; and each connection gets one of them.
_SETTLING_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Calls, and what the broker had taken before and after them."""

    calls: Calls
    before: Reading
    after: Reading

    @property
    def cpu_share(self) -> float | None:
        """CPU time of the broker, of one core's."""
        return _rate(self.before.cpu_seconds, self.after.cpu_seconds, self.after.at - self.before.at)

    @property
    def waited_share(self) -> float | None:
        """Time that the broker was ready to run and others had the CPU."""
        return _rate(self.before.waited_seconds, self.after.waited_seconds, self.after.at - self.before.at)


@dataclass(slots=True)
class Crowd:
    """The open sessions of one broker.

    Args:
        opening_seconds: What all of `grow` took.
    """

    broker: Broker
    sessions: list[str] = field(default_factory=list)
    opening_seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def grow(self, amount: int) -> float:
        """Open sessions until there are so many; return how many a second.

        Raises:
            RuntimeError: There are none at all.
        """
        with opening(self.broker.url, count=amount - len(self.sessions), connections=_CONNECTIONS) as run:
            opened = run.result()
        self.sessions += opened.sessions
        self.opening_seconds += opened.ended - opened.began
        if opened.errors:
            self.problems.append(f"{opened.errors} sessions could not be opened: {opened.first_error}")
        if not self.sessions:
            raise RuntimeError(self.problems[-1])
        return opened.per_second

    def call(self, seconds: float) -> Load:
        """Call all of them in turn, over a connection each."""
        with OpenLoop(self.broker.endpoint, self.sessions) as loop:
            warm = loop.run(rate=RATE, seconds=max(_SETTLING_SECONDS, len(self.sessions) / RATE))
            before = self.broker.read()
            calls = loop.run(rate=RATE, seconds=seconds)
            after = self.broker.read()
        for part in (warm, calls):
            if part.errors:
                amount = len(self.sessions)
                self.problems.append(f"{part.errors} calls failed over {amount} sessions: {part.first_error}")
        return Load(calls=calls, before=before, after=after)

    def end(self) -> Ended:
        """Stop the broker, and look whether anything is left."""
        ended = self.broker.end()
        if ended.exit_code or ended.left:
            self.problems.append(
                f"SIGTERM with {len(self.sessions)} sessions: expected exit code 0 and nothing left, found "
                f"{ended.exit_code} and {ended.left} processes"
            )
        return ended


def _rate(before: float | None, after: float | None, seconds: float) -> float | None:
    return None if before is None or after is None else (after - before) / seconds


def cpu_us(before: Reading, after: Reading, calls: int) -> float | None:
    """Return the broker's CPU time of each of so many calls, in microseconds."""
    seconds = _rate(before.cpu_seconds, after.cpu_seconds, 1)
    return seconds / calls * 1e6 if seconds is not None and calls else None


def milliseconds(seconds: Sequence[float], percent: float) -> float | None:
    """Return a percentile of times, in milliseconds; 100 is the worst."""
    found = percentile(seconds, percent)
    return None if found is None else found * 1000


def latencies(name: str, calls: Calls, *, began: float = 0.0) -> Series:
    """Return the worst call of each tenth of a second, for a plot whose 0 is `began` after their start."""
    worst: dict[int, float] = {}
    for due, latency in zip(calls.due, calls.latency, strict=True):
        tenth = int((due - began) * 10 // 1)
        worst[tenth] = max(worst.get(tenth, 0.0), latency * 1000)
    tenths = sorted(worst)
    return Series(
        name=name,
        x=[tenth / 10 for tenth in tenths],
        y=[worst[tenth] for tenth in tenths],
        x_label="seconds",
        y_label="worst latency, ms",
    )
