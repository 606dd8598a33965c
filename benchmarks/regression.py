"""Fails where the broker has become slower, by ratios within one run against those of a baseline.

    python -m benchmarks.regression check|record [--rounds 10] [--seconds 1]

The broker runs beside a constant answer of the same kind of HTTP server, and beside a minimal answer in C
where there is a compiler. What is compared is how much more it needs than those two, never a time: times
depend on what else the machine does, and within one run these ratios hardly do. A ratio that looks worse is
measured once more, and judged by all rounds together, before it fails.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec

from benchmarks import results
from benchmarks.catalogue import SCENARIOS
from benchmarks.figures import ratio
from benchmarks.programs import TAG, end_tagged
from benchmarks.results import Machine, Round
from benchmarks.rounds import Plan, measure
from benchmarks.subjects import BROKER, CEILING, CONSTANT, subjects
from benchmarks.tools import ROOT, prepare

__all__ = ["BASELINE", "WATCHED", "Baseline", "Expected", "Watched", "found_of", "verdicts"]

BASELINE = ROOT / "benchmarks" / "baseline.json"

_INTERRUPTED = 130  # what a shell reports for SIGINT


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A ratio of the broker to something that does not change with it.

    Args:
        other: What the broker is compared with.
        key: The figure of both.
        tolerance: How much worse than in the baseline is still noise: 0.15 is 15 percent.
        more_is_better: Else less is.
    """

    name: str
    other: str
    key: str
    tolerance: float = 0.15
    more_is_better: bool = False

    def worse(self, expected: float, found: float) -> float:
        """Return by how much it has become worse: 0.15 is 15 percent."""
        return (expected / found if self.more_is_better else found / expected) - 1


# On a machine with five times as much to do as it has cores, 90 percent of the medians of 10 rounds of 0.6 s
# lie within 4 percent for the p50, within 11 for the CPU, within 30 for calls/s; a failure takes 20 rounds.
WATCHED: Sequence[Watched] = (
    Watched(name="CPU per call, 32 connections", other=CONSTANT, key="many_cpu_us"),
    Watched(name="CPU per call, 1 connection", other=CONSTANT, key="one_cpu_us"),
    Watched(name="p50, 1 connection", other=CONSTANT, key="one_p50_us", tolerance=0.12),
    Watched(
        name="calls/s, 32 connections", other=CONSTANT, key="many_rps", tolerance=0.25, more_is_better=True
    ),
    Watched(name="CPU per call, 100 sessions", other=CEILING, key="sessions_cpu_us"),
    Watched(name="CPU per cycle", other=CEILING, key="cycles_cpu_us"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A ratio as it was recorded, with the round that was lowest and the one that was highest."""

    ratio: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What was recorded, and where: another kind of machine may need one of its own."""

    date: str
    machine: Machine
    versions: Mapping[str, str]
    ratios: Mapping[str, Expected]


Measured: TypeAlias = Mapping[str, Sequence[Round]]


def found_of(measured: Measured, watched: Sequence[Watched] = WATCHED) -> dict[str, Expected]:
    """Return every watched ratio that the rounds give."""
    ratios = {of.name: ratio(measured, BROKER, of.other, of.key) for of in watched}
    return {
        name: Expected(ratio=round(r.median, 3), low=round(r.low, 3), high=round(r.high, 3))
        for name, r in ratios.items()
        if r
    }


def verdicts(
    expected: Mapping[str, Expected], found: Mapping[str, Expected], watched: Sequence[Watched] = WATCHED
) -> list[str]:
    """Say, one line each, what has become worse than noise explains, or is missing."""
    lines = []
    for of in watched:
        before, now = expected.get(of.name), found.get(of.name)
        if before is None:
            lines.append(f"{of.name}: the baseline has no such ratio; `make bench-baseline` records it")
        elif now is None:
            lines.append(f"{of.name}: expected {before.ratio:.2f} × {of.other}, found nothing")
        elif (worse := of.worse(before.ratio, now.ratio)) > of.tolerance:
            is_worse = f"found {now.ratio:.2f}: {worse:.0%} worse, where {of.tolerance:.0%} may be noise"
            lines.append(f"{of.name}: expected {before.ratio:.2f} × {of.other}, {is_worse}")
    return lines


def main() -> int:
    """Check or record; return the exit status."""
    options = _parse()
    tag = f"{TAG}{os.getpid()}"
    try:
        return (_record if options.what == "record" else _check)(options, tag)
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        end_tagged(tag)


def _record(options: argparse.Namespace, tag: str) -> int:
    machine = results.machine()
    found = found_of(measure(_plan(options, tag)))
    if missing := [of.name for of in WATCHED if of.name not in found]:
        print(f"nothing recorded, as these were not found: {', '.join(missing)}", file=sys.stderr)
        return 1
    baseline = Baseline(date=results.now(), machine=machine, versions=results.versions(), ratios=found)
    options.baseline.write_bytes(msgspec.json.format(msgspec.json.encode(baseline), indent=1) + b"\n")
    print(*_lines(found, found), sep="\n")
    return 0


def _check(options: argparse.Namespace, tag: str) -> int:
    if not options.baseline.exists():
        print("there is no baseline yet: `make bench-baseline` records it", file=sys.stderr)
        return 1
    expected = msgspec.json.decode(options.baseline.read_bytes(), type=Baseline).ratios
    plan = _plan(options, tag)
    here = {subject.name for subject in plan.subjects}
    watched = [of for of in WATCHED if of.other in here]
    measured = measure(plan)
    if verdicts(expected, found_of(measured), watched):
        print("a ratio looks worse: measuring once more", file=sys.stderr)
        measured = {name: [*measured[name], *rounds] for name, rounds in measure(plan).items()}
    found = found_of(measured)
    print(*_lines(expected, found), sep="\n")
    problems = verdicts(expected, found, watched)
    print(*(["\nFAILED", *problems] if problems else ["\nno regression"]), sep="\n")
    return 1 if problems else 0


def _lines(expected: Mapping[str, Expected], found: Mapping[str, Expected]) -> list[str]:
    pairs = [(of, expected.get(of.name), found.get(of.name)) for of in WATCHED]
    return [
        f"{of.name}: {now.ratio:.2f} ({now.low:.2f} to {now.high:.2f}) × {of.other}, was {before.ratio:.2f}"
        for of, before, now in pairs
        if before and now
    ]


def _plan(options: argparse.Namespace, tag: str) -> Plan:
    tools = prepare()
    return Plan(
        tools=tools,
        tag=tag,
        subjects=[s for s in subjects(tools, tag) if s.name in {BROKER, CONSTANT, CEILING}],
        scenarios=[s for s in SCENARIOS if s.name in {of.key.partition("_")[0] for of in WATCHED}],
        rounds=options.rounds,
        seconds=options.seconds,
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regression", description=__doc__)
    parser.add_argument("what", choices=("check", "record"))
    parser.add_argument("--rounds", type=int, choices=range(2, 41), metavar="2..40", default=10)
    parser.add_argument("--seconds", type=float, default=1.0, help="measured time of each run")
    parser.add_argument(
        "--baseline", type=Path, default=BASELINE, help="the file to compare with, or to write"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
