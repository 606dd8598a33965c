"""Large messages: how fast they pass, what memory they take, and what small calls beside them wait.

A message of n MiB is one line, or one body, of nearly that size: as much text as fits below it, because the
size is also the broker's limit. The generator checks every byte of it; a latency ends with the last byte.

`large` has, for each of `MESSAGES` (`large_16_result`), `_mibs`: MiB/s of the median call, one by one on one
connection; and `_peak`: by how much the memory of the subject's own process rose above the least that
it had before, in multiples of the message. What it keeps of an earlier message counts too: an upper bound.

`beside` has, for each of `STREAMS` (`beside_16_result`; `beside_nothing` is the machine alone), `_p50_ms`,
`_p99_ms` and `_max_ms` of the small calls of another session, which fall due in fixed intervals and have
connections of their own, and `_mibs` of the stream meanwhile.

A figure that a subject fails is None, and why is in `Load.failures`, by the part of the key before the unit.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.load import Load, Outcome

__all__ = ["MESSAGES", "SIZES_MIB", "STREAMS", "beside", "large"]

SIZES_MIB = (1, 16, 64)
DIRECTIONS = ("result", "argument")
MESSAGES = tuple(f"large_{size}_{direction}" for size in SIZES_MIB for direction in DIRECTIONS)
"""What `large` has figures for, in the order it is measured."""

STREAMS = ("nothing", "16_result", "64_result", "64_argument")
"""What `beside` has figures for."""

_MIB = 1024 * 1024
# Of a message that is not its text, with room for both eras.
_ENVELOPE_BYTES = 1024
# No more calls than these, as their median is all that is wanted; fewer where time is short.
_COUNTS = {1: 40, 16: 12, 64: 5}
_CALL_TIMEOUT = 30.0

# Often enough for 300 calls in the shortest time; so many connections that a stall of 190 ms delays no call.
_EVERY_US = 4000
_CONNECTIONS = 48
_LEAST_TIME = 1.5
_LONGEST_TIME = 20.0
# Large messages that pass while the small calls are made: their ends count as well as their middle.
_MESSAGES_BESIDE = 3
_LEAST_CALLS = 300


def large(load: Load) -> Mapping[str, float | None]:
    """Send and fetch each size, ascending; a direction that fails is not tried any larger.

    Raises:
        RuntimeError: Not even the smallest messages pass.
    """
    memory = _Memory(load.program.pid)
    found: dict[str, float | None] = {}
    failed: dict[str, str] = {}
    for size in SIZES_MIB:
        for direction in DIRECTIONS:
            key = f"large_{size}_{direction}"
            found[f"{key}_mibs"] = found[f"{key}_peak"] = None
            if direction in failed:
                load.failures[key] = "not tried, as a smaller one failed"
                continue
            with memory.watched():
                outcome = _messages(load, size, direction, _COUNTS[size])
            if why := _failure(outcome):
                failed[direction] = load.failures[key] = why
            else:
                found[f"{key}_mibs"] = size / (outcome.p50_us / 1e6)
                found[f"{key}_peak"] = memory.risen_in(size * _MIB)
    if all(value is None for value in found.values()):
        raise RuntimeError(failed[DIRECTIONS[0]])
    return found


def beside(load: Load) -> Mapping[str, float | None]:
    """Make small calls beside nothing, and then beside each stream.

    Raises:
        RuntimeError: The small calls fail with nothing beside them.
    """
    seconds = max(_LEAST_TIME, load.seconds)
    alone = _small(load, seconds)
    if why := _failure(alone):
        raise RuntimeError(why)
    found: dict[str, float | None] = _small_figures("beside_nothing", alone)
    for stream in STREAMS[1:]:
        size, direction = stream.split("_")
        found |= _beside(load, f"beside_{stream}", int(size), direction, seconds)
    return found


def _beside(load: Load, key: str, size: int, direction: str, seconds: float) -> dict[str, float | None]:
    alone = _messages(load, size, direction, 1)
    if why := _failure(alone):
        load.failures[key] = why
        return {**_small_figures(key, None), f"{key}_mibs": None}
    seconds = min(_LONGEST_TIME, max(seconds, _MESSAGES_BESIDE * alone.p50_us / 1e6))
    streams: list[Outcome] = []
    with load.streaming(streams, **_sizes(size, direction)):
        small = _small(load, seconds)
    if why := _failure(streams[0]) or _failure(small) or _too_few(small):
        load.failures[key] = why
        return {**_small_figures(key, None), f"{key}_mibs": None}
    return {**_small_figures(key, small), f"{key}_mibs": size / (streams[0].p50_us / 1e6)}


def _messages(load: Load, size: int, direction: str, count: int) -> Outcome:
    sizes = _sizes(size, direction)
    return load.calls(connections=1, count=count, timeout=_CALL_TIMEOUT, give_up=1, **sizes)


def _sizes(size: int, direction: str) -> dict[str, int]:
    return {f"{direction}_bytes": size * _MIB - _ENVELOPE_BYTES}


def _small(load: Load, seconds: float) -> Outcome:
    return load.calls(connections=_CONNECTIONS, every_us=_EVERY_US, seconds=seconds, give_up=10)


def _small_figures(key: str, outcome: Outcome | None) -> dict[str, float | None]:
    return {
        f"{key}_p50_ms": None if outcome is None else outcome.p50_us / 1000,
        f"{key}_p99_ms": None if outcome is None else outcome.p99_us / 1000,
        f"{key}_max_ms": None if outcome is None else outcome.max_us / 1000,
    }


def _failure(outcome: Outcome) -> str:
    if outcome.calls and not outcome.errors and not outcome.wrong:
        return ""
    counts = f"{outcome.calls} right, {outcome.errors} errors, {outcome.wrong} wrong"
    return f"{counts}: {outcome.first_error or 'no answer in time'}"


def _too_few(outcome: Outcome) -> str:
    return (
        "" if outcome.calls >= _LEAST_CALLS else f"{outcome.calls} small calls were answered in time, not 300"
    )


class _Memory:
    """The memory of one process: the least that was seen of it, and its peaks; nothing without /proc."""

    def __init__(self, pid: int) -> None:
        self._proc = Path(f"/proc/{pid}")
        self._least: int | None = None
        self._peak: int | None = None

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Take the peak while the block runs."""
        self._peak = None
        now = self._kb("VmRSS:")
        if now is not None:
            self._least = now if self._least is None else min(self._least, now)
        # "5" sets the peak to what is resident now: proc(5), "clear_refs".
        try:
            (self._proc / "clear_refs").write_text("5")
        except OSError:
            yield
            return
        yield
        self._peak = self._kb("VmHWM:")

    def risen_in(self, unit_bytes: int) -> float | None:
        """Return how far the last peak stands above the least, in units."""
        if self._least is None or self._peak is None:
            return None
        return (self._peak - self._least) * 1024 / unit_bytes

    def _kb(self, field: str) -> int | None:
        with contextlib.suppress(OSError):
            for line in (self._proc / "status").read_text().splitlines():
                if line.startswith(field):
                    return int(line.split()[1])
        return None
