"""Runs the benchmark: every subject in every round, each time in a fresh process.

Rounds alternate the order of the subjects (A B C, then C B A), so that a slow drift of the machine touches
all of them alike.
"""

import argparse
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Sequence
from types import FrameType

from benchmarks import report, supervisor
from benchmarks.load import Load
from benchmarks.programs import end_tagged, started
from benchmarks.scenarios import SCENARIOS, Figures, Scenario
from benchmarks.subjects import Subject, subjects
from benchmarks.supervisor import SUPERVISOR
from benchmarks.tools import Tools, prepare

_INTERRUPTED = 130  # what a shell reports for SIGINT


def main() -> int:
    """Measure and print the tables; return the exit status."""
    options = _parse()
    # Both, even where the shell that started us ignores Ctrl-C for background jobs.
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    tools = prepare()
    tag = f"bench-tag-{os.getpid()}"
    scenarios = [s for s in SCENARIOS if options.scenario in (None, s.name)]
    names = {s.name for s in scenarios}
    chosen = [s for s in subjects(tools, tag) if options.subject in (None, s.name) and names & s.scenarios]
    print(report.machine())
    print(*tools.notes, sep="\n", flush=True)
    rounds: dict[str, list[Figures]] = defaultdict(list)
    try:
        for number in range(options.rounds):
            for subject in chosen if number % 2 == 0 else chosen[::-1]:
                print(f"round {number + 1} of {options.rounds}: {subject.name}", file=sys.stderr)
                rounds[subject.name].append(_measure(tools, subject, scenarios, options.seconds, tag))
        of_supervisor = options.scenario in (None, SUPERVISOR.name) and not options.subject
        starts = supervisor.measure(options.rounds) if of_supervisor else None
    except RuntimeError as exc:
        print(exc, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        end_tagged(tag)
    if chosen:
        print(report.tables(rounds, scenarios), report.ratios(rounds), sep="\n\n", end="\n\n")
    if starts:
        print(report.tables(starts, [SUPERVISOR]), supervisor.ratios(starts), sep="\n\n")
    return 0


def _measure(
    tools: Tools, subject: Subject, scenarios: Sequence[Scenario], seconds: float, tag: str
) -> Figures:
    figures: dict[str, float | None] = {}
    failed = {"errors": 0.0, "wrong": 0.0}
    with started(subject.argv) as program:
        load = Load(tools=tools, subject=subject, program=program, seconds=seconds * subject.share)
        for scenario in scenarios:
            if scenario.name in subject.scenarios:
                found = scenario.run(load)
                figures.update(found)
                failed = {key: value + (found.get(key) or 0) for key, value in failed.items()}
    return {**figures, **failed, "left": float(end_tagged(tag))}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 rounds of 1 s instead of 5 rounds of 3 s")
    parser.add_argument("--rounds", type=int, choices=range(1, 21), metavar="1..20")
    parser.add_argument("--seconds", type=float, help="measured time of each run, at most 60")
    parser.add_argument(
        "--scenario", choices=[s.name for s in (*SCENARIOS, SUPERVISOR)], help="only this one"
    )
    parser.add_argument("--subject", help="only this one, by its name in the table")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = min(60.0, options.seconds or (1.0 if options.quick else 3.0))
    return options


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
