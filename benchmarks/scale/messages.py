"""What a message costs as it grows: results, and arguments, over one connection, one at a time."""

import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from benchmarks.content import digest, piece
from benchmarks.scale.broker import Broker, broker
from benchmarks.scale.crowd import cpu_us
from benchmarks.scale.http import CallFailed, Connection, blob_body, check_text, digest_body
from benchmarks.scale.numbers import line_fit, per_step
from benchmarks.scale.result import Result, Series, number
from benchmarks.tools import Tools

__all__ = ["messages"]

_SIZES = (100, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576)
_KINDS = ("result", "argument")
_ROUNDS = 3
# However slow the machine, and however fast the broker.
_CALLS_MIN = 3
_CALLS_MAX = 5000

_Costs: TypeAlias = Mapping[tuple[str, int], Sequence[tuple[float | None, float]]]
"""Of each kind and size, CPU of the broker and time of a call in each round, in microseconds."""


def messages(tools: Tools, tag: str, *, seconds: float) -> Result:
    """Call with every size of either kind in rounds, `seconds` each, in alternating order."""
    costs: dict[tuple[str, int], list[tuple[float | None, float]]] = defaultdict(list)
    problems: list[str] = []
    order = [(kind, size) for kind in _KINDS for size in _SIZES]
    with broker(tools, tag, max_sessions=2) as running:
        connection = Connection(running.endpoint)
        try:
            session = connection.open_session()
            for turn in range(_ROUNDS):
                for kind, size in order if turn % 2 == 0 else order[::-1]:
                    cost = _call(running, connection, session, kind=kind, size=size, seconds=seconds)
                    costs[kind, size].append(cost)
        except (CallFailed, OSError) as exc:
            problems.append(f"a call failed: {type(exc).__name__}: {exc}")
        finally:
            connection.close()
    return _result(costs, problems)


def _call(
    running: Broker, connection: Connection, session: str, *, kind: str, size: int, seconds: float
) -> tuple[float | None, float]:
    text = piece(0, size)
    answered = text if kind == "result" else digest(text)
    calls = 0
    before = running.read()
    deadline = before.at + seconds
    while calls < _CALLS_MIN or (time.monotonic() < deadline and calls < _CALLS_MAX):
        body = blob_body(calls, size) if kind == "result" else digest_body(calls, text)
        check_text(connection.call(session, body), calls, answered)
        calls += 1
    after = running.read()
    return cpu_us(before, after, calls), (after.at - before.at) / calls * 1e6


def _result(costs: _Costs, problems: Sequence[str]) -> Result:
    rows = [("bytes", *(f"{kind}: {what}" for kind in _KINDS for what in ("CPU µs", "ns/byte more", "µs")))]
    figures: dict[str, float | None] = {}
    columns: list[Sequence[str]] = []
    series = []
    for kind in _KINDS:
        cpu = [_median([cost for cost, _ in costs.get((kind, size), ())]) for size in _SIZES]
        took = [_median([time_ for _, time_ in costs.get((kind, size), ())]) for size in _SIZES]
        more = [None, *per_step(_SIZES, cpu)]
        columns.append([number(value, 1) for value in cpu])
        columns.append([number(None if value is None else value * 1000, 2) for value in more])
        columns.append([number(value) for value in took])
        figures |= {f"{kind}_cpu_us_at_{size}": value for size, value in zip(_SIZES, cpu, strict=True)}
        figures |= _line(kind, cpu)
        series.append(
            Series(name=f"CPU of a call by its {kind}", x=_SIZES, y=cpu, x_label="bytes", y_label="µs")
        )
    rows += [(number(size), *cells) for size, *cells in zip(_SIZES, *columns, strict=True)]
    return Result(
        title="A call as its message grows: the broker's CPU, of that each byte more, and its time",
        rows=rows,
        figures=figures,
        series=series,
        problems=problems,
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _line(kind: str, cpu: Sequence[float | None]) -> Mapping[str, float | None]:
    """Return the nearest straight line, and by which factor the cost that lies farthest from it does so."""
    known = [(size, cost) for size, cost in zip(_SIZES, cpu, strict=True) if cost]
    if len(known) < len(_SIZES):
        return {f"{kind}_base_us": None, f"{kind}_ns_per_byte": None, f"{kind}_farthest_from_line": None}
    base, slope = line_fit([size for size, _ in known], [cost for _, cost in known])
    ratios = [cost / (base + slope * size) for size, cost in known]
    return {
        f"{kind}_base_us": base,
        f"{kind}_ns_per_byte": slope * 1000,
        f"{kind}_farthest_from_line": max(*ratios, *(1 / ratio for ratio in ratios)),
    }
